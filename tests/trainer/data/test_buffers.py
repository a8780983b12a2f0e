import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from richsem_train.data.buffers import BatchBuffers


def test_a_buffer_is_free_again_once_nothing_looks_at_it():
    buffers = BatchBuffers(2, 64)
    taken = {buffers.take(), buffers.take()}
    assert taken == {0, 1}
    assert buffers.take() is None
    tensor = torch.from_numpy(buffers.lend(1)[8:32].reshape(2, 4, 3)).permute(2, 0, 1)
    assert buffers.take() is None
    part = tensor[:, 0]
    del tensor
    assert buffers.take() is None
    del part
    assert buffers.take() == 1
    assert buffers.take() is None


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_what_a_forked_process_writes_is_seen_here():
    buffers = BatchBuffers(1, 64)
    number = buffers.take()
    here, there = multiprocessing.get_context("fork").Pipe()

    def fill():
        buffers.room(number)[:3] = 1, 2, 3
        there.send_bytes(pickle.dumps(buffers))

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    assert pickle.loads(here.recv_bytes()) is buffers
    process.join()
    assert buffers.lend(number)[:4].tolist() == [1, 2, 3, 0]


def test_rooms_do_not_overlap():
    buffers = BatchBuffers(3, 16)
    for number in range(3):
        buffers.room(number)[:] = number
    assert [np.unique(buffers.room(number)).tolist() for number in range(3)] == [[0], [1], [2]]
