import json

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.results.class_aps import ClassAps, aps_of_record


def record():
    aps = ClassAps(8, ("cat", "dog", "owl"), ("r", "", "f"), np.array([0.25, np.nan, 1.0]))
    return json.loads(json.dumps({"event": "classes", "step": 8} | aps.as_record()))


def test_a_record_is_read_back():
    assert record()["frequencies"] == "r-f"
    read = aps_of_record(record(), "log.jsonl")
    assert (read.step, read.names, read.frequencies) == (8, ("cat", "dog", "owl"), ("r", "", "f"))
    assert read.by_name() == {"cat": 0.25, "owl": 1.0}


@pytest.mark.parametrize(
    "damage",
    [
        {"ap": [0.1, 0.2]},
        {"ap": [0.1, None, 1.5]},
        {"ap": [0.1, None, "x"]},
        {"ap": 3},
        {"names": ["cat", "dog", 4]},
        {"frequencies": "rxf"},
        {"frequencies": None},
    ],
)
def test_a_damaged_record_is_refused(damage):
    with pytest.raises(RichSemError, match=r"log\.jsonl: its APs of classes at step 8 .*mend or delete that line"):
        aps_of_record(record() | damage, "log.jsonl")
