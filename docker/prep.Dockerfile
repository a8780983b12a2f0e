# syntax=docker/dockerfile:1
# richsem-prep and all it needs. Build from the repository's root:
#   docker build --file docker/prep.Dockerfile --tag richsem-prep .

FROM python:3.12-slim AS build
RUN --mount=type=cache,target=/root/.cache/pip pip install "uv>=0.5"
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=300
RUN uv venv --python /usr/local/bin/python3.12 /opt/richsem
WORKDIR /src
# Dependencies change less often than code, so they are a layer of their own.
COPY pyproject.toml requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/richsem/bin/python --constraint requirements.txt \
      --requirements pyproject.toml --extra prep --extra s3
COPY README.md LICENSE NOTICE ./
COPY schemas schemas
COPY pipeline pipeline
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/richsem/bin/python --no-deps .

FROM python:3.12-slim
# The owner of the volumes; give your own ids where you mount folders of the host.
ARG UID=1000
ARG GID=1000
RUN groupadd --gid "${GID}" richsem \
    && useradd --uid "${UID}" --gid richsem --create-home richsem \
    && install --directory --owner richsem --group richsem /data /caches
COPY --from=build /opt/richsem /opt/richsem
ENV PATH=/opt/richsem/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RICHSEM_DATA=/data \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
USER richsem
# Relative paths, `caches/DATASET` among them, land in the volume.
WORKDIR /
VOLUME ["/data", "/caches"]
ENTRYPOINT ["richsem-prep"]
CMD ["--help"]
