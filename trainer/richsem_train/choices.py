"""Words that configs choose among and the code below them obeys; light, so that a config is read without torch."""

from typing import Literal

Supervision = Literal["labelled", "unlabelled", "pseudo"]
"""How the class of a picture's boxes is taught: by its labels, not at all, or by what the teacher is sure of."""

Tail = Literal["bucket", "uniform", "renormalise"]
"""What becomes of the mass outside the stored classes: one more class, spread evenly, or left out."""

ClassifierKind = Literal["text", "linear"]
"""Scaled cosines with the text bank, or a linear layer."""

Precision = Literal["fp32", "bf16"]
"""Of backbone and transformer; boxes, cosines and losses are always fp32."""
