"""Words that configs choose among and the code below them obeys; light, so that a config is read without torch."""

from typing import Literal

Supervision = Literal["labelled", "unlabelled", "pseudo", "image"]
"""How the class of a picture's boxes is taught: by its labels, not at all, or by what the teacher is sure of; or of a
picture without boxes, by the labels of the whole image."""

ViewForm = Literal["mosaics", "crops", "windows", "free-mosaics"]
"""Views of a cache as stored, or mosaics that are composed anew from its crops."""

SoftForm = Literal["topk", "embedding"]
"""Soft labels by the stored classes, or by the whole distribution."""

LabelForm = Literal["topk", "embedding", "hard"]
"""The semantic branch learns soft labels of either form, or the label as if it were soft."""

OnDamage = Literal["stop", "skip"]
"""At a picture or view that is missing or broken: stop, or take another one and tell."""

Tail = Literal["bucket", "uniform", "renormalise"]
"""The mass outside the stored classes: one more class, spread evenly, or left out."""

ClassifierKind = Literal["text", "linear"]
"""Scaled cosines with the text bank, or a linear layer."""

LabelEmbedding = Literal["classifier", "embedding"]
"""Contents of denoising queries: the classifier's own, or an embedding."""

Backend = Literal["torch", "torch-checkpoint", "triton"]
"""Who samples in deformable attention. `torch` is the oracle and the fastest on a CPU, `torch-checkpoint` keeps nothing
of what it sampled for the backward pass and samples again, `triton` is a kernel for CUDA devices that never
materialises the samples."""

Precision = Literal["fp32", "tf32", "bf16"]
"""Of the network. With `bf16` boxes, cosines and losses stay fp32. With `tf32` all numbers are fp32, and CUDA devices
round what they multiply in convolutions and matrix products to 10 bits of mantissa; a CPU does not."""

LearningRates = Literal["steps", "cosine"]
"""How learning rates fall: to a tenth at some epochs, or by half a cosine to 0 at the end of the run."""

Protocol = Literal["lvis", "coco", "fixed"]
"""How detections are scored: LVIS's protocol, COCO's, or Fixed AP: that of the annotations' format, with a limit a
class in the place of limits a picture."""

Scorer = Literal["hotcoco", "lvis"]
"""Who computes the figures; `lvis` is LVIS's official evaluator."""
