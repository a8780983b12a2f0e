"""The mistakes a user can make, each with a message that names the value, the rule and the remedy."""


class RichSemError(Exception):
    """A user's mistake or a broken input; commands print it without a traceback and exit with 1."""


class PictureError(RichSemError):
    """The bytes of one picture can't be decoded; the sample is quarantined, the job goes on."""


class SourceError(RichSemError):
    """The raw dataset as a whole can't be used: missing, empty, or not in the expected layout."""


class CorruptCacheError(RichSemError):
    """A file of a cache is truncated, changed, or not what its receipt says."""


class IrregularFileError(CorruptCacheError):
    """A pipe, a device or a folder stands in the place of a file."""


class ManifestMismatchError(RichSemError):
    """A cache holds something else than what is asked for; names the fields that differ."""


class TeacherError(RichSemError):
    """The teacher can't be built: unknown name, weights out of reach, or a file that doesn't fit."""


class EmbeddingError(RichSemError):
    """The teacher gave embeddings that are not finite; their shard fails, the other shards go on."""
