"""Lists of classes that are fixed: LVIS, ImageNet-21k and those of other datasets."""
