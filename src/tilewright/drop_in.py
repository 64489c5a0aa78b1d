"""The faster module in the place of a live one: imported from its source, copied and pickled by it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tilewright.errors import SourceError

if TYPE_CHECKING:
    from torch import nn

    from tilewright.values.study import Study


class NothingBetterWarning(UserWarning):
    """`optimize` found nothing that passed the gate and was faster; the module was returned as it is."""


def drop_in(module: nn.Module, study: Study) -> nn.Module:
    """The study's best as a module that shares all that `module` owns; `module` itself where there is none."""
    if study.best is None:
        from tilewright.report.summary import sentence

        warnings.warn(sentence(study), NothingBetterWarning, stacklevel=3)
        module.tilewright_study = study  # type: ignore[assignment]
        return module
    return restored(study.best.candidate.source, module, study)


def restored(source: str, module: nn.Module, study: Study | None) -> nn.Module:
    """The drop-in of an emitted source for a module: what unpickling and copying call.

    Args:
        source: text of the emitted file.
        module: what it takes the place of.
        study: the evidence, as its attribute `tilewright_study`.
    """
    made: nn.Module = _imported(source).ModelNew(module)
    made.tilewright_study = study  # type: ignore[assignment]
    return made


def check_replaceable(module: nn.Module) -> None:
    """Refuse what no drop-in can stand for.

    Raises:
        SourceError: the forward pass was replaced on the instance.
    """
    if "forward" in vars(module):
        raise SourceError(
            f"forward() of this {type(module).__name__} was replaced on the instance",
            hint="give it a class of its own, whose forward() is the new one",
        )


def _imported(source: str) -> ModuleType:
    """Import a source that passed the gate; Triton reads its kernels' source from a file, so it gets one."""
    from tilewright.report.files import write_atomically
    from tilewright.search.opening import user_cache_dir

    name = f"tilewright_model_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = user_cache_dir() / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != source:
        write_atomically(path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    imported = importlib.util.module_from_spec(spec)
    sys.modules[name] = imported
    spec.loader.exec_module(imported)

    def reduce_with_source(self: Any, protocol: int) -> tuple[Any, ...]:
        """Another process has no such module: the source travels with the pickle."""
        return restored, (source, self.reference, getattr(self, "tilewright_study", None))

    imported.ModelNew.__reduce_ex__ = reduce_with_source
    imported.ModelNew.tilewright_study = imported.ModelNew.evidence
    return imported
