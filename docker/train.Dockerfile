# syntax=docker/dockerfile:1
# richsem-train and all it needs. Build from the repository's root:
#   docker build --file docker/train.Dockerfile --tag richsem-train .

FROM python:3.12-slim AS build
RUN --mount=type=cache,target=/root/.cache/pip pip install "uv>=0.5"
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=300
RUN uv venv --python /usr/local/bin/python3.12 /opt/richsem
WORKDIR /src
# Dependencies change less often than code, so they are a layer of their own.
COPY pyproject.toml requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/richsem/bin/python --constraint requirements.txt \
      --requirements pyproject.toml --extra train --extra s3
COPY README.md LICENSE NOTICE ./
COPY schemas schemas
COPY pipeline pipeline
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/richsem/bin/python --no-deps .

FROM python:3.12-slim
# Triton compiles a small launcher in C when the first kernel runs on a GPU. `eval --scorer lvis` imports OpenCV, which
# needs libGL, glib and libxcb. Pillow shapes names that run from right to left with FriBidi.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libfribidi0 libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*
# The owner of the volumes; give your own ids where you mount folders of the host.
ARG UID=1000
ARG GID=1000
RUN groupadd --gid "${GID}" richsem \
    && useradd --uid "${UID}" --gid richsem --create-home richsem \
    && install --directory --owner richsem --group richsem /data /caches /runs
COPY --from=build /opt/richsem /opt/richsem
ENV PATH=/opt/richsem/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RICHSEM_DATA=/data
USER richsem
# Relative paths, `caches/NAME` and `runs/CONFIG` among them, land in the volumes.
WORKDIR /
VOLUME ["/data", "/caches", "/runs"]
ENTRYPOINT ["richsem-train"]
CMD ["--help"]
