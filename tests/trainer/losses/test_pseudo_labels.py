from dataclasses import replace

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.losses.pseudo_labels import with_pseudo_labels
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.targets import SoftLabels
from tests.trainer.losses.batches import embedding_labels, generator, make_target

IDS = torch.tensor([[4, 2, 0], [3, 1, 2], [5, 0, 1]])
PROBS = torch.tensor([[0.5, 0.3, 0.15], [0.04, 0.03, 0.02], [0.9, 0.06, 0.01]])


def test_every_sure_class_repeats_its_box_and_unsure_boxes_vanish():
    soft_labels = SoftLabels(class_ids=IDS, log_probs=PROBS.log(), log_rest=(1 - PROBS.sum(1)).log())
    before = make_target(3, supervision="pseudo", soft_labels=soft_labels)

    after = with_pseudo_labels(before, SoftLoss())

    assert after.supervision == "labelled"
    assert after.labels.tolist() == [4, 2, 5]
    assert torch.equal(after.boxes_cxcywh_norm, before.boxes_cxcywh_norm[[0, 0, 2]])
    assert torch.equal(after.soft_labels.class_ids, IDS[[0, 0, 2]])
    assert torch.equal(after.soft_labels.log_rest, soft_labels.log_rest[[0, 0, 2]])
    assert after.soft_labels.embeddings is None


def test_embeddings_give_the_labels_of_their_distribution():
    texts = torch.randn(8, 5, generator=generator(3))
    teacher = SoftLoss(texts, logit_scale=5.0)
    soft_labels = embedding_labels(4)
    after = with_pseudo_labels(make_target(4, supervision="pseudo", soft_labels=soft_labels), teacher, threshold=0.2)

    probs = teacher.log_probs(soft_labels.embeddings).exp()
    expected = [(g, c) for g in range(4) for c in range(1, 8) if probs[g, c] > 0.2]

    assert after.labels.tolist() == [c for _, c in expected]
    assert torch.equal(after.soft_labels.embeddings, soft_labels.embeddings[[g for g, _ in expected]])


def test_other_pictures_stay_as_they_are():
    for target in (make_target(2), make_target(2, supervision="unlabelled")):
        assert with_pseudo_labels(target, SoftLoss()) is target


def test_pictures_without_soft_labels_are_refused():
    with pytest.raises(RichSemError, match="picture 9 shall learn pseudo labels but has no soft labels"):
        with_pseudo_labels(make_target(1, seed=9, supervision="pseudo"), SoftLoss())


def test_no_boxes_give_no_labels():
    target = make_target(
        0,
        supervision="pseudo",
        soft_labels=SoftLabels(class_ids=IDS[:0], log_probs=PROBS[:0], log_rest=PROBS[:0, 0]),
    )
    assert with_pseudo_labels(target, SoftLoss()).labels.tolist() == []


@pytest.mark.parametrize("form", ["topk", "embedding"])
def test_a_box_that_the_teacher_has_not_seen_has_no_pseudo_label(form):
    teacher = SoftLoss(torch.randn(8, 5, generator=generator(3)), logit_scale=5.0)
    soft_labels = SoftLabels(class_ids=IDS, log_probs=PROBS.log(), log_rest=(1 - PROBS.sum(1)).log())
    if form == "embedding":
        soft_labels = embedding_labels(3)
    before = make_target(
        3, supervision="pseudo", soft_labels=replace(soft_labels, is_known=torch.tensor([True, True, False]))
    )
    after = with_pseudo_labels(before, teacher)
    assert len(after.labels) > 0
    assert before.boxes_cxcywh_norm[2].tolist() not in after.boxes_cxcywh_norm.tolist()
