"""The faster module in the place of a live one: imported from its source, copied and pickled by it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from tilewright.errors import SourceError, TilewrightError

if TYPE_CHECKING:
    from torch import nn

    from tilewright.values.study import Study


class NothingBetterWarning(UserWarning):
    """`optimize` found nothing that passed the gate and was faster; the module was returned as it is."""


#: What `optimize` returns where a mode of torch.compile is faster than ours.
IF_BEATEN = ("module", "ours", "compiled")


class NoPeerError(TilewrightError):
    """A study holds no time of torch.compile: there was no GPU, or no mode could be compiled."""


def drop_in(module: nn.Module, study: Study, if_beaten: str = "module") -> nn.Module:
    """The study's best as a module that shares all that `module` owns; `module` itself where there is none.

    Args:
        module: what it takes the place of.
        study: the evidence.
        if_beaten: one of `IF_BEATEN`: what is returned where a mode of torch.compile is faster: `module` as it is, the
            fastest of `ours` all the same, or `module` `compiled` in that mode.
    """
    if if_beaten == "ours":
        study = study.keeping_ours()
    if study.best is None and if_beaten == "compiled" and study.peer_wins:
        return compiled_peer(module, study)
    if study.best is None:
        from tilewright.report.summary import sentence

        warnings.warn(sentence(study), NothingBetterWarning, stacklevel=3)
        module.tilewright_study = study  # type: ignore[assignment]
        return module
    return restored(study.best.candidate.source, module, study)


def compiled_peer(module: nn.Module, study: Study) -> nn.Module:
    """`module` compiled by the mode of torch.compile that was the fastest in a study, with the study as its attribute.

    In a channels_last mode the parameters of 4 and 5 dims of `module` itself are brought into that layout, and inputs
    on each call: give them in it to have the time that was measured.

    Raises:
        NoPeerError: the study holds no time of torch.compile.
    """
    from torch import nn

    from tilewright.measure.compiled import compile_as, in_layout
    from tilewright.measure.peers import find_peer

    if study.best_peer is None:
        raise NoPeerError("no mode of torch.compile was timed", hint="the study's peer_failures say why")
    peer = find_peer(study.best_peer[0])
    compiled = compile_as(peer, module)

    class CompiledPeer(nn.Module):
        """The compiled module; its inputs in the layout that it was measured with."""

        def __init__(self) -> None:
            super().__init__()
            self.compiled = compiled

        def forward(self, *inputs: Any, **named: Any) -> Any:
            return self.compiled(*map(in_layout, inputs), **{name: in_layout(one) for name, one in named.items()})

    made = cast("nn.Module", CompiledPeer() if peer.channels_last else compiled)
    made.tilewright_study = study  # type: ignore[assignment]
    return made


def check_choice(if_beaten: str) -> None:
    """Refuse what is none of `IF_BEATEN`.

    Raises:
        SourceError: it is none.
    """
    if if_beaten not in IF_BEATEN:
        raise SourceError(f"if_beaten cannot be {if_beaten!r}", hint=f"one of {', '.join(IF_BEATEN)}")


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
