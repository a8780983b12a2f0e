"""`richsem-prep` with the experiment's world among its datasets: `python -m benchmarks.evidence.prep shard ...`."""

from benchmarks.evidence.world import add_datasets
from richsem_prep.cli import run

if __name__ == "__main__":
    add_datasets()
    run()
