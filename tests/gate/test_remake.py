"""Inputs at other sizes, as the task would make them, and what is kept of their structure."""

from __future__ import annotations

import pytest
import torch

from tilewright.gate.probes import draws, ties
from tilewright.gate.probes.planning import Group
from tilewright.gate.probes.remake import Remaker
from tilewright.gate.probes.structure import Structure, kept, resampled, structure_of
from tilewright.gate.reference.subject import leaves
from tilewright.task.task import InputSpec, ModuleSource

TABLE = """
import torch

ROWS, COUNT = 50, 30


def get_inputs():
    return [torch.randn(ROWS, 24), torch.sort(torch.randint(0, ROWS, (COUNT,)))[0]]
"""


def remaker(text: str, *shapes: tuple[int, ...]) -> Remaker:
    return Remaker(ModuleSource(text, "Model"), shapes)


def test_positions_follow_the_table_and_stay_sorted() -> None:
    found = remaker(TABLE, (50, 24), (30,)).inputs({(0, 0): 3, (1, 0): 200}, {}, seed=1)
    assert found is not None
    table, positions = found
    assert (tuple(table.shape), tuple(positions.shape)) == ((3, 24), (200,))
    assert set(positions.tolist()) == {0, 1, 2}
    assert bool((positions.diff() >= 0).all())


def test_positions_follow_a_number_of_the_constructor() -> None:
    text = "import torch\n\n\ndef get_inputs():\n    return [torch.randint(0, 1000, (4, 9))]\n"
    found = remaker(text, (4, 9)).inputs({(0, 1): 400}, {1000: 7}, seed=0)
    assert found is not None
    assert int(found[0].max()) < 7
    assert tuple(found[0].shape) == (4, 400)


def test_inputs_of_the_command_line_are_made_at_other_sizes() -> None:
    specs = (InputSpec("rand", (50, 8)), InputSpec("randint", (9,), dtype="int64", low=0, high=50))
    given = Remaker(ModuleSource("", "Model", init_args=(), inputs=specs), ((50, 8), (9,)))
    found = given.inputs({(0, 0): 4}, {}, seed=0)
    assert found is not None
    assert tuple(found[0].shape) == (4, 8)
    assert int(found[1].max()) < 4


def test_what_cannot_be_made_is_said() -> None:
    text = "import torch\n\n\ndef get_inputs():\n    return [torch.randn(2 * 8, 16)]\n"
    assert remaker(text, (16, 16)).inputs({(0, 0): 5}, {}, seed=0) is None


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.randn(8, 8).triu(), Structure(triangle="upper")),
        (torch.ones(8, 8, dtype=torch.bool).tril(), Structure(triangle="lower")),
        (torch.randn(4, 40).sort(dim=-1).values, Structure(ascending=True)),
        (torch.randperm(40).roll(3), Structure(distinct=True)),
        (torch.softmax(torch.randn(6, 9), -1), Structure(kept=True)),
        ((torch.rand(6, 9) < 0.5).float(), Structure(kept=True)),
        (torch.randn(6, 9), Structure()),
        (torch.zeros(6, 9), Structure()),
    ],
)
def test_structures(tensor: torch.Tensor, expected: Structure) -> None:
    assert structure_of([tensor, tensor]) == expected


def test_draws_keep_the_structure() -> None:
    generator = torch.Generator().manual_seed(0)
    triangle = kept(Structure(triangle="upper"), torch.randn(5, 5), None)
    assert torch.equal(triangle, triangle.triu())
    assert torch.equal(kept(Structure(ascending=True), torch.tensor([3.0, 1.0]), None), torch.tensor([1.0, 3.0]))
    assert resampled(Structure(distinct=True), torch.randperm(40), 7, generator).sort().values.tolist() == list(
        range(7)
    )
    symmetric = kept(Structure(symmetric=True), torch.randn(5, 5), None)
    assert torch.equal(symmetric, symmetric.t())


def test_positions_that_cannot_be_remade_stay_below_what_shrinks() -> None:
    template = [torch.empty(3, 2, device="meta"), torch.empty(40, dtype=torch.int64, device="meta")]
    own = [torch.rand(20), torch.randint(0, 50, (500,))]
    assert int(draws.draw_inputs(template, own, "own", 0, bounds={50: 3})[1].max()) == 2


def test_a_type_of_8_bits_takes_what_it_can_hold() -> None:
    template = [torch.empty(50, dtype=torch.float8_e4m3fn, device="meta")]
    for how in draws.DRAWS:
        (drawn,) = leaves(draws.draw_inputs(template, [torch.zeros(4).to(torch.float8_e4m3fn)], how, 0))
        assert bool(torch.isfinite(drawn.float()).all()), how


def test_equal_shapes_and_squares_change_together() -> None:
    groups = [Group(((0, 0),), 16), Group(((0, 1),), 20), Group(((1, 0),), 16), Group(((1, 1),), 20)]
    found = ties.tied(groups, [(16, 20), (16, 20)], [Structure()] * 2)
    assert [ties.joined(together).members for together in found] == [((0, 0), (1, 0)), ((0, 1), (1, 1))]
    square = [Group(((0, 1),), 8), Group(((0, 2),), 8)]
    assert len(ties.tied(square, [(4, 8, 8)], [Structure()])) == 1
    image = [Group(((0, 2),), 8), Group(((0, 3),), 8)]
    assert len(ties.tied(image, [(4, 3, 8, 8)], [Structure()])) == 2
