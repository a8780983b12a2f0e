"""`richsem-prep text`: a vocabulary through a teacher's text tower, into a folder of its own."""

from collections.abc import Callable

from richsem_prep.teacher.class_lists import read_templates, read_vocabulary
from richsem_prep.teacher.teacher import load_teacher, parse_teacher, torch_device
from richsem_prep.teacher.text import TEMPLATES, text_bank
from richsem_schemas.cache.field_types import NamePolicy
from richsem_schemas.cache.layout import FEATURES_FILE
from richsem_schemas.cache.text_folder import TextFolder, read_text_folder, text_path, write_text_folder
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_schemas.io.files import is_temporary
from richsem_schemas.io.places import Place

OWN_FILES = frozenset({"text.json", FEATURES_FILE})


def make_text(
    teacher: str,
    *,
    names: str,
    templates: str,
    policy: NamePolicy,
    out: Place,
    device: str | None,
    on_progress: Callable[[int, int], None],
) -> TextFolder:
    """Make a text folder, or find that it is there; `read_vocabulary` and `read_templates` say what may be asked for.

    Raises:
        RichSemError: a mistake of the user's; `out` holds other things, or another text.
    """
    vocabulary, wanted = read_vocabulary(names), read_templates(templates, TEMPLATES)
    _require_usable(out)
    loaded = load_teacher(parse_teacher(teacher), device=torch_device(device))
    bank = text_bank(loaded, vocabulary, policy, templates=wanted, on_progress=on_progress)
    text = TextFolder(bank, loaded.identity, vocabulary.name, policy)
    if text_path(out).exists():
        _require_same(out, text)
    else:
        write_text_folder(out, text)
    return text


def _require_usable(out: Place) -> None:
    if out.exists() and not out.is_dir():
        raise RichSemError(f"--out {out} is no folder; name one")
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    strangers = sorted(name for name in names if name not in OWN_FILES and not is_temporary(name))
    if strangers:
        raise RichSemError(f"--out {out} holds other things ({', '.join(strangers[:5])}); name a folder of its own")


def _require_same(out: Place, text: TextFolder) -> None:
    found = read_text_folder(out)
    differing = [
        field
        for field, there, here in (
            ("teacher.weights_sha256", found.teacher.weights_sha256, text.teacher.weights_sha256),
            ("teacher", found.teacher, text.teacher),
            ("vocabulary", found.vocabulary, text.vocabulary),
            ("class_names", found.bank.class_names, text.bank.class_names),
            ("templates", found.bank.templates, text.bank.templates),
            ("names", found.names, text.names),
        )
        if there != here
    ]
    if differing:
        raise ManifestMismatchError(
            f"{text_path(out)} holds another text: {', '.join(differing)} differ; name another --out, or delete it"
        )
