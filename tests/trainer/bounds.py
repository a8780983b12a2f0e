"""The most that numbers of a config may be."""

BOUNDS = [
    ("model.size_divisor", 100_000, 1024),
    ("model.denoising.queries", 100_000_000, 10_000),
    ("model.backbone.frozen_stages", 1_000_000_000, 100),
    ("loss.federated", 1_073_741_824, 1_000_000),
    ("evaluation.detections", 1_073_741_824, 10_000),
    ("evaluation.batch_size", 1_073_741_824, 256),
    ("evaluation.every_epochs", 1_073_741_824, 1_000_000),
    ("schedule.epochs", 1_073_741_824, 1_000_000),
    ("schedule.global_batch_size", 1_073_741_824, 65_536),
    ("schedule.extra_batch_size", 1_073_741_824, 65_536),
    ("schedule.accumulate", 1_073_741_824, 65_536),
    ("schedule.pictures_a_draw", 1_073_741_824, 65_536),
    ("schedule.warmup_steps", 2_000_000_000, 1_000_000_000),
    ("log.every_steps", 2_000_000_000, 1_000_000_000),
    ("log.checkpoint_every_steps", 2_000_000_000, 1_000_000_000),
    ("extra.lanes", 1_073_741_824, 65_536),
    ("detection.repeat_threshold", 1e200, 1),
    ("detection.class_aware_pictures", 1_073_741_824, 100_000_000),
]
"""Numbers of a config that no weight has a side for: what is too much, and what is the most."""
