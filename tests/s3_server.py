"""A real S3 server on loopback, for tests of remote places."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

KEYS = {"key": "tests", "secret": "tests"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Start one and have fsspec use it, in this process and those that it starts; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint, **KEYS})
        patch.setenv("FSSPEC_S3_ENDPOINT_URL", endpoint)
        patch.setenv("FSSPEC_S3_KEY", KEYS["key"])
        patch.setenv("FSSPEC_S3_SECRET", KEYS["secret"])
        try:
            yield endpoint
        finally:
            server.stop()


def new_bucket(endpoint: str) -> str:
    """Make an empty bucket; its URL."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["key"],
        aws_secret_access_key=KEYS["secret"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
    return f"s3://{name}"
