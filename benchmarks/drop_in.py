"""Drop-ins beside their modules, in Triton's interpreter: a call that differs, or a module that was changed.

Draws a family of `benchmarks.drop_in_families`, emits it, changes the module or the call in some way, and compares the
drop-in with the reference: the same result, or the same class of error. `python -m benchmarks.drop_in COUNT SEED`.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import contextlib
import copy
import io
import json
import linecache
import random
import sys
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

warnings.filterwarnings("ignore")

from benchmarks.drop_in_families import FAMILIES, Family  # noqa: E402
from tilewright.graph.canonical import simplify  # noqa: E402
from tilewright.graph.capture import capture  # noqa: E402
from tilewright.kernels.module.classes import read_reference, write_file, write_live_file  # noqa: E402
from tilewright.kernels.module.text import write_forward  # noqa: E402
from tilewright.kernels.planner import plan_module  # noqa: E402
from tilewright.kernels.steps import PlanOptions  # noqa: E402
from tilewright.proposers.synthesize import plan_variants, widened_reads  # noqa: E402
from tilewright.task.task import ModuleSource  # noqa: E402
from tilewright.toolchain.triton_compat import refine_interpreter  # noqa: E402
from tilewright.values import PrecisionClass  # noqa: E402

refine_interpreter()


@dataclass(frozen=True)
class Emitted:
    """An emitted file, imported.

    Attributes:
        reference: the class that says what is right.
        drop_in: makes the drop-in, of a reference module.
    """

    reference: type[nn.Module]
    drop_in: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], nn.Module]


def import_text(text: str, name: str) -> types.ModuleType:
    """A module out of a text; Triton reads its kernels' source through linecache."""
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, filename, "exec"), module.__dict__)
    return module


def emit(family: Family, live: bool, options: PlanOptions) -> Emitted:
    """The family's file, and the module that is emitted for it."""
    source = ModuleSource(family.text, "Model", init_args=family.init)
    given = import_text(family.text, f"drop_in_reference_{family.name}")
    torch.manual_seed(0)
    module = given.Model(*family.init).eval()
    graph = simplify(capture(module, example(family, random.Random(0)))).graph
    plan = plan_module(graph, options)
    forward = write_forward(plan)
    if live:
        made = import_text(write_live_file(forward, description="drawn"), f"drop_in_live_{family.name}")
        return Emitted(given.Model, lambda reference, init, named: made.ModelNew(copy.deepcopy(reference)))
    reads = widened_reads(source, graph, options) if family.name in _WIDENED else graph.reads
    text = write_file(read_reference(family.text, "Model"), forward, description="drawn", may_differ=reads)
    made = import_text(text, f"drop_in_file_{family.name}")

    def build(reference: nn.Module, init: tuple[Any, ...], named: dict[str, Any]) -> nn.Module:
        drop_in = made.ModelNew(*init, **named)
        drop_in.load_state_dict(reference.state_dict())
        if hasattr(reference, "table"):
            drop_in.table = reference.table
        return drop_in.train(reference.training)

    return Emitted(given.Model, build)


_WIDENED = {"options", "linear_bn"}


def example(family: Family, rng: random.Random) -> list[Any]:
    """The family's example arguments."""
    return [_made(one, rng) for one in family.inputs]


def _made(form: Any, rng: random.Random) -> Any:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if isinstance(form, tuple):
        return torch.randn(form, generator=generator)
    if not isinstance(form, str):
        return form
    kind, _, rest = form.partition(" ")
    if kind == "bool":
        return torch.rand(_shape(rest), generator=generator) > 0.3
    if kind == "list":
        return [torch.randn(_shape(part + ")"), generator=generator) for part in rest.split(")")[:-1]]
    name, _, shape = rest.partition(" ")
    return {name: torch.randn(_shape(shape), generator=generator)}


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip(" ()").split(",") if part.strip())


# -- what differs ------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A reference and its drop-in, and a call of both."""

    family: Family
    modules: list[nn.Module]
    arguments: list[Any]
    keywords: dict[str, Any]
    rng: random.Random
    gradients: bool = False


def _each_tensor(scene: Scene, change: Callable[[torch.Tensor], torch.Tensor], one: bool = True) -> None:
    leaves, spec = pytree.tree_flatten(scene.arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for place in [scene.rng.choice(places)] if one else places:
        leaves[place] = change(leaves[place])
    scene.arguments = pytree.tree_unflatten(leaves, spec)


def nothing(scene: Scene) -> None:
    """The example again."""


def other_batch(scene: Scene) -> None:
    """Another first size, of all tensors."""
    size = scene.rng.choice([1, 2, 5, 7])
    _each_tensor(scene, lambda t: t[:1].repeat(size, *[1] * (t.dim() - 1)) if t.dim() > 1 else t, one=False)


def broadcast(scene: Scene) -> None:
    """A size of one tensor is 1."""

    def cut(t: torch.Tensor) -> torch.Tensor:
        return t.narrow(scene.rng.randrange(t.dim()), 0, 1)

    _each_tensor(scene, cut)


def misfit(scene: Scene) -> None:
    """A size of one tensor is one more."""

    def grown(t: torch.Tensor) -> torch.Tensor:
        dim = scene.rng.randrange(t.dim())
        return torch.cat([t, t.narrow(dim, 0, 1)], dim)

    _each_tensor(scene, grown)


def fewer_dims(scene: Scene) -> None:
    """One tensor lacks its first dim."""
    _each_tensor(scene, lambda t: t[0] if t.dim() > 1 else t)


def strides(scene: Scene) -> None:
    """Tensors lie in memory in another way."""

    def laid(t: torch.Tensor) -> torch.Tensor:
        kind = scene.rng.randrange(4)
        if kind == 0 and t.dim() == 4:
            return t.contiguous(memory_format=torch.channels_last)
        if kind == 1 and t.dim() > 1:
            return t.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 2:
            return torch.stack([t, t], -1)[..., 0]
        return t[:1].expand_as(t)

    _each_tensor(scene, laid, one=scene.rng.random() < 0.5)


def types_(scene: Scene) -> None:
    """Another type of the inputs, or of all."""
    dtype = scene.rng.choice([torch.float64, torch.float16, torch.int32])
    _each_tensor(scene, lambda t: t.to(dtype), one=scene.rng.random() < 0.5)
    if scene.rng.random() < 0.5 and dtype is not torch.int32:
        for module in scene.modules:
            module.to(dtype)


def same_twice(scene: Scene) -> None:
    """One tensor in two places."""
    leaves, spec = pytree.tree_flatten(scene.arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    leaves[places[-1]] = leaves[places[0]]
    scene.arguments = pytree.tree_unflatten(leaves, spec)


def by_keyword(scene: Scene) -> None:
    """Arguments by their names, or more of them."""
    if scene.family.keywords and scene.rng.random() < 0.7:
        scene.keywords = {
            name: _made(value, scene.rng) for name, value in scene.rng.choice(scene.family.keywords).items()
        }
        return
    import inspect

    names = [
        name for name, one in inspect.signature(type(scene.modules[0]).forward).parameters.items()
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name != "self"
    ]  # fmt: skip
    given = dict(zip(names, scene.arguments, strict=False))
    first = scene.rng.randrange(len(scene.arguments))
    scene.keywords = {name: given[name] for name in names[first : len(scene.arguments)]}
    scene.arguments = scene.arguments[:first]


def other_values(scene: Scene) -> None:
    """Arguments that are no tensors, changed; one argument more or fewer."""
    others = [2.5, 7, None, True, torch.tensor(2.0)]
    changed = [
        one if isinstance(one, torch.Tensor | list | dict) else scene.rng.choice(others) for one in scene.arguments
    ]
    if changed == scene.arguments or scene.rng.random() < 0.2:
        changed = [*changed, torch.randn(1)] if scene.rng.random() < 0.5 else changed[:-1]
    scene.arguments = changed


def attribute(scene: Scene) -> None:
    """An attribute is set to another value."""
    if not scene.family.attributes:
        return
    path = scene.rng.choice(list(scene.family.attributes))
    value = scene.rng.choice(list(scene.family.attributes[path]))
    if isinstance(value, str) and "." in value:
        value = eval(value, {"F": F, "torch": torch})
    owner, _, name = path.rpartition(".")
    for module in scene.modules:
        part = module.get_submodule(owner)
        if isinstance(getattr(part, name), dict) and scene.rng.random() < 0.5:
            getattr(part, name).update(copy.deepcopy(value))
        else:
            setattr(part, name, copy.deepcopy(value))


def child(scene: Scene) -> None:
    """A child is replaced by another module, or gets a hook, or another forward pass."""
    kind = scene.rng.randrange(4)
    paths = [path for path, _ in scene.modules[0].named_modules() if path]
    if kind == 0 and scene.family.children:
        path = scene.rng.choice(list(scene.family.children))
        text = scene.rng.choice(list(scene.family.children[path]))
        torch.manual_seed(1)
        made = eval(text, {"nn": nn}).train(scene.modules[0].training)
        owner, _, name = path.rpartition(".")
        for module in scene.modules:
            setattr(module.get_submodule(owner), name, copy.deepcopy(made))
    elif paths and kind == 1:
        path = scene.rng.choice(paths)
        for module in scene.modules:
            module.get_submodule(path).register_forward_hook(
                lambda m, given, out: out * 2.0 if isinstance(out, torch.Tensor) else out
            )
    elif paths and kind == 2:
        path = scene.rng.choice(paths)
        for module in scene.modules:
            module.get_submodule(path).register_forward_pre_hook(lambda m, given: (given[0] + 1.0, *given[1:]))
    elif paths:
        path = scene.rng.choice(paths)
        for module in scene.modules:
            part = module.get_submodule(path)
            if not isinstance(part, nn.ModuleList):
                part.forward = lambda x: x * 0.5


def append(scene: Scene) -> None:
    """A list of layers grows or shrinks."""
    lists = [path for path, part in scene.modules[0].named_modules() if isinstance(part, nn.ModuleList)]
    for path in lists:
        for module in scene.modules:
            layers = module.get_submodule(path)
            if scene.rng.random() < 2:
                layers.append(copy.deepcopy(layers[0]))


def weights(scene: Scene) -> None:
    """Parameters and buffers are written, in some way."""
    kinds = [
        lambda p: p.data.mul_(3.0),
        lambda p: p.data.clamp_(-0.05, 0.05),
        lambda p: p.detach().numpy().__imul__(2.0),
        lambda p: p.data.set_(torch.full_like(p, 0.5)),
        lambda p: p.data.copy_(torch.flip(p.data, [0])),
        lambda p: setattr(p, "data", torch.ones_like(p) * 0.3),
        lambda p: setattr(p, "data", torch.stack([p.data, p.data], -1)[..., 0]),
        lambda p: torch.nn.init.constant_(p, 0.7),
        lambda p: p.data.untyped_storage().resize_(p.numel() * p.element_size() * 2),
    ]
    names = [name for name, p in scene.modules[0].state_dict(keep_vars=True).items() if p.is_floating_point()]
    if not names:
        return
    name, kind = scene.rng.choice(names), scene.rng.choice(kinds)
    for module in scene.modules:
        with torch.no_grad():
            kind(module.state_dict(keep_vars=True)[name])


def new_weights(scene: Scene) -> None:
    """A parameter is replaced: by another, by None, by one of another shape or type."""
    places = [
        (path, name) for path, part in scene.modules[0].named_modules() for name in part._parameters
    ]  # fmt: skip
    if not places:
        return
    path, name = scene.rng.choice(places)
    kind = scene.rng.randrange(4)
    for module in scene.modules:
        part = module.get_submodule(path)
        old = getattr(part, name)
        if old is None:
            return
        new = [
            lambda old=old: nn.Parameter(old.detach() * 2.0),
            lambda: None,
            lambda old=old: nn.Parameter(torch.cat([old.detach(), old.detach()])),
            lambda old=old: nn.Parameter(old.detach().double()),
        ][kind]()
        setattr(part, name, new)


def loaded(scene: Scene) -> None:
    """Another state is loaded."""
    state = {
        name: value * 1.5 if value.is_floating_point() else value
        for name, value in scene.modules[0].state_dict().items()
    }
    for module in scene.modules:
        module.load_state_dict(state)


def training(scene: Scene) -> None:
    """Training mode, of all or of one child."""
    parts = [path for path, _ in scene.modules[0].named_modules()]
    path = scene.rng.choice(parts)
    for module in scene.modules:
        module.get_submodule(path).train()


def with_gradients(scene: Scene) -> None:
    """Gradients are wanted."""
    scene.gradients = True
    _each_tensor(scene, lambda t: t.requires_grad_() if t.is_floating_point() else t)


def copied(scene: Scene) -> None:
    """Both are copied, then changed."""
    scene.modules = [copy.deepcopy(module) for module in scene.modules]
    scene.rng.choice([weights, attribute, nothing])(scene)


DIFFERENCES: tuple[Callable[[Scene], None], ...] = (
    nothing, other_batch, broadcast, misfit, fewer_dims, strides, types_, same_twice, by_keyword, other_values,
    attribute, attribute, child, child, append, weights, weights, new_weights, loaded, training, with_gradients, copied,
)  # fmt: skip


# -- one draw ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Tensors say that they lie on a GPU."""
    truth = torch.Tensor.is_cuda
    torch.Tensor.is_cuda = property(lambda self: True)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.Tensor.is_cuda = truth


def call(module: nn.Module, scene: Scene, on_gpu: bool) -> tuple[Any, BaseException | None]:
    """The result of the scene's call, or what it raised."""
    known: dict[int, torch.Tensor] = {}

    def fresh(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        return known.setdefault(id(one), one.detach().requires_grad_(one.requires_grad))

    arguments, keywords = pytree.tree_map(fresh, (scene.arguments, scene.keywords))
    torch.manual_seed(5)
    try:
        with torch.set_grad_enabled(scene.gradients), pretended() if on_gpu else contextlib.nullcontext():
            return module(*arguments, **keywords), None
    except Exception as error:
        return None, error


def compare(family: Family, right: tuple[Any, Any], found: tuple[Any, Any]) -> str:
    """What is wrong with what was found; empty where nothing is."""
    if (right[1] is None) != (found[1] is None):
        return f"the reference gave {_said(right)}, the drop-in {_said(found)}"
    if right[1] is not None:
        same = type(right[1]) is type(found[1])
        return "" if same else f"the reference raised {right[1]!r:.200}, the drop-in {found[1]!r:.200}"
    expected, spec = pytree.tree_flatten(right[0])
    got, spec_found = pytree.tree_flatten(found[0])
    if spec != spec_found:
        return f"outputs are nested as {spec_found}, right is {spec}"
    for a, b in zip(expected, got, strict=True):
        if not isinstance(a, torch.Tensor):
            if a != b:
                return f"{b!r} instead of {a!r}"
            continue
        if a.shape != b.shape or a.dtype is not b.dtype or a.requires_grad != b.requires_grad:
            return (
                f"{tuple(b.shape)} {b.dtype} {b.requires_grad}, right is {tuple(a.shape)} {a.dtype} {a.requires_grad}"
            )
        x, y = a.detach().double(), b.detach().double()
        if not torch.equal(x.isnan(), y.isnan()):
            return "NaN in other places"
        scale = float(x[x.isfinite()].abs().max()) if x.isfinite().any() else 1.0
        error = float((x - y)[x.isfinite()].abs().max()) if x.isfinite().any() else 0.0
        if error > family.tolerance * max(scale, 1e-30):
            return f"an error of {error:.3g} where values reach {scale:.3g}"
    return ""


def _said(outcome: tuple[Any, Any]) -> str:
    if outcome[1] is not None:
        return f"{type(outcome[1]).__name__}: {str(outcome[1])[:160]}"
    leaves = pytree.tree_leaves(outcome[0])
    return str([tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in leaves])[:160]


class Drawer:
    """Draws, with what was emitted so far."""

    def __init__(self) -> None:
        self.emitted: dict[tuple[str, bool, int], Emitted] = {}
        self.launches = 0

    def options(self, family: Family, variant: int) -> PlanOptions:
        """Plans as they are tried for a small GPU."""
        if family.tolerance < 1e-4:
            return PlanOptions()
        found = plan_variants(4, PrecisionClass.TF32)
        return found[variant % 2]

    def draw(self, seed: int) -> dict[str, Any]:
        """One draw: what was drawn, and what is wrong."""
        rng = random.Random(seed)
        family = rng.choice(FAMILIES)
        live, variant = rng.random() < 0.5, 0
        key = (family.name, live, variant)
        if key not in self.emitted:
            self.emitted[key] = emit(family, live, self.options(family, variant))
        emitted = self.emitted[key]
        init, named = family.init, {}
        if not live and family.others and rng.random() < 0.3:
            init, named = rng.choice(family.others)
        torch.manual_seed(seed % 1000)
        reference = emitted.reference(*init, **named).eval()
        for value in reference.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.1)
        drop_in = emitted.drop_in(reference, init, dict(named))
        scene = Scene(family, [reference, drop_in], example(family, rng), {}, rng)
        if rng.random() < 0.7:
            call(drop_in, scene, True)
        difference = rng.choice(DIFFERENCES)
        state = rng.getstate()
        difference(scene)
        right = call(scene.modules[0], scene, False)
        before = self.launches
        found = call(scene.modules[1], scene, True)
        wrong = compare(family, right, found)
        said = {"seed": seed, "family": family.name, "live": live, "difference": difference.__name__,
                "launched": self.launches > before, "wrong": wrong}  # fmt: skip
        if wrong and found[1] is not None:
            said["trace"] = "".join(traceback.format_exception(found[1]))[-1500:]
        del state
        return said

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count the launches of interpreted kernels."""
        from triton.runtime.interpreter import GridExecutor

        original = GridExecutor.__call__

        def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.launches += 1
            return original(executor, *args, **kwargs)

        GridExecutor.__call__ = counted
        try:
            yield
        finally:
            GridExecutor.__call__ = original


def main(count: int, seed: int) -> int:
    """Print each wrong draw, and a summary."""
    drawer, tally, wrong = Drawer(), Counter(), 0
    with drawer.counting(), contextlib.redirect_stderr(io.StringIO()):
        for number in range(seed, seed + count):
            try:
                said = drawer.draw(number)
            except Exception:
                said = {
                    "seed": number,
                    "wrong": traceback.format_exc()[-1500:],
                    "family": "?",
                    "difference": "?",
                    "launched": False,
                }
            tally[f"{said['family']}: {'kernels' if said['launched'] else 'reference'}"] += 1
            if said["wrong"]:
                wrong += 1
                print(json.dumps(said), flush=True)
    print(json.dumps({"draws": count, "wrong": wrong, "by": dict(sorted(tally.items()))}))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
