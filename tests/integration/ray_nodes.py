"""A Ray cluster of a head and one more node, in a process of its own, since Ray reads its settings once a process.

Prints the address, then `lost` when a line on standard input has ended the second node; ends with standard input.
"""

import sys

from ray.cluster_utils import Cluster

_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        node = cluster.add_node(**_NODE)
        print(cluster.address, flush=True)  # noqa: T201 - how it tells
        if sys.stdin.readline():
            cluster.remove_node(node, allow_graceful=False)
            print("lost", flush=True)  # noqa: T201 - the same
            sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
