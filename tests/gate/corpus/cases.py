"""The corpus as a table: which reference each candidate belongs to, and which check must reject it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Right:
    """A correct candidate in a legal style.

    Attributes:
        name: of its file in `right/`.
        reference: name of the file in `references/`.
        quick: it belongs to the sample that every test run takes.
        limits: checks that limit it rightly.
        large: its own sizes are too large to be run: only what it would launch there is looked at.
    """

    name: str
    reference: str
    quick: bool = False
    limits: tuple[str, ...] = ()
    large: bool = False
    target: str = "rtx-4090"

    @property
    def source(self) -> str:
        """The candidate's text."""
        return (FOLDER / "right" / f"{self.name}.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Wrong:
    """A candidate that cheats or is broken, in the one way that its file's first line says.

    Attributes:
        name: of its file in `wrong/`.
        reference: name of the file in `references/`.
        checks: it must be rejected by one of these.
        strict: right for the task's own inputs and wrong beyond: a limit, which rejects only our own emitted code.
        gpu: only a GPU shows it.
        slow: it takes minutes, since a deadline must pass.
        quick: it belongs to the sample that every test run takes.
        environment: variables of the test's process while it runs.
        target: the GPU that it is judged for.
    """

    name: str
    reference: str
    checks: tuple[str, ...]
    strict: bool = False
    gpu: bool = False
    slow: bool = False
    quick: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    target: str = "rtx-4090"

    @property
    def source(self) -> str:
        """The candidate's text."""
        return (FOLDER / "wrong" / f"{self.name}.py").read_text(encoding="utf-8")


def reference_path(name: str) -> Path:
    """File of a reference module."""
    return FOLDER / "references" / f"{name}.py"


RIGHT: tuple[Right, ...] = (
    Right("plain_tail_mask", "bias_gelu"),
    Right("autotuned", "bias_gelu", quick=True),
    Right("heuristics", "bias_gelu"),
    Right("persistent", "residual_mish", quick=True),
    Right("atomic_split_sum", "weighted_sum", quick=True),
    Right("partial_split_sum", "weighted_sum"),
    Right("block_pointers", "transpose_scale"),
    Right("tensor_descriptors", "linear_relu", quick=True),
    Right("two_kernels", "softmax_rows"),
    Right("online_softmax", "softmax_rows"),
    Right("own_buffer_in_place", "residual_mish"),
    Right("channels_last_inside", "conv1x1"),
    Right("flattened_channels", "clamp_scale"),
    Right("three_grid_axes", "clamp_scale"),
    Right("helper_functions", "residual_mish"),
    Right("constant_flags", "moments"),
    Right("welford", "layer_norm"),
    Right("repacked_weights", "linear_relu", quick=True),
    Right("functional_style", "weighted_sum"),
    Right("asserts_device", "bias_gelu"),
    Right("view_of_bigger_buffer", "bias_gelu"),
    Right("backward_accumulation", "linear_relu"),
    Right("grouped_matmul", "linear_relu"),
    Right("transposed_tile", "transpose_scale"),
    Right("strided_input", "transpose_scale"),
    Right("identity_of_minimum", "min_channels"),
    Right("where_for_masks", "min_channels"),
    Right("wide_offsets", "bias_gelu"),
    Right("nested_reductions", "channel_mean"),
    Right("casts_between_types", "half_silu"),
    Right("blocked_scan", "running_sum"),
    Right("fused_attention", "attention"),
    Right("gathered_rows", "embedding_sum"),
    Right("folded_statistics", "batch_norm_leaky"),
    Right("kept_workspace", "weighted_sum"),
    Right("falls_back_without_gpu", "softplus_scale"),
    Right("row_in_one_block", "layer_norm"),
    Right("last_program_finishes", "weighted_sum"),
    Right("held_counters", "weighted_sum", quick=True),
    Right("stream_of_its_own", "bias_gelu"),
    Right("event_instead_of_wait", "bias_gelu"),
    Right("smaller_tile_when_refused", "bias_gelu"),
    Right("thread_that_is_joined", "bias_gelu"),
    Right("guarded_by_a_flag", "bias_gelu"),
    # --- the language and its libraries in the interpreter
    Right("language_sigmoid", "tanh_gelu"),
    Right("member_functions", "tanh_gelu"),
    Right("device_library", "tanh_gelu"),
    Right("device_library_of_cuda", "tanh_gelu"),
    Right("device_library_in_full", "tanh_gelu"),
    Right("inline_exponential", "tanh_gelu"),
    Right("inline_registers", "tanh_gelu", quick=True),
    Right("logical_words", "tanh_gelu", quick=True),
    Right("casts_of_scalars", "tanh_gelu"),
    Right("named_functions", "tanh_gelu"),
    Right("constants_of_the_file", "tanh_gelu"),
    Right("statements_about_values", "tanh_gelu"),
    Right("jit_called", "tanh_gelu"),
    Right("made_by_a_function", "tanh_gelu"),
    Right("warmed_up", "tanh_gelu"),
    Right("pruned_configurations", "tanh_gelu"),
    Right("scalars_times_bfloat16", "leaky_bf16", quick=True),
    Right("bfloat16_maximum", "leaky_bf16"),
    Right("bfloat16_pairs", "leaky_bf16"),
    Right("helper_of_a_helper", "swiglu"),
    Right("persistent_rows", "rms_norm"),
    Right("two_passes_over_rows", "rms_norm"),
    Right("associative_scan", "recurrence"),
    Right("step_by_step", "recurrence"),
    Right("sorted_by_the_language", "sorted_rows"),
    Right("sorted_by_rank", "sorted_rows"),
    Right("accumulator_given", "half_linear"),
    Right("wrapped_rows", "half_linear"),
    Right("library_of_two", "logaddexp"),
    Right("interleaved_by_the_language", "interleaved"),
    Right("joined_and_reshaped", "interleaved"),
    Right("addresses_in_a_tensor", "interleaved"),
    Right("scan_with_a_function", "running_maximum"),
    Right("split_pairs", "complex_product"),
    Right("rounded_once", "rms_norm_short", quick=True),
    Right("first_of_equal", "arg_max"),
    Right("outputs_of_two_types", "two_types"),
    Right("masked_by_fill", "masked_scores"),
    Right("takes_its_arguments", "scaled_by_argument"),
    Right("takes_its_option", "sloped"),
    Right("positions_in_a_table", "picked_rows", quick=True),
    Right("in_place_as_asked", "changed_in_place"),
    Right("counts_its_calls", "bias_gelu"),
    Right("erf_by_torch", "bias_gelu"),
    Right("script_beside_module", "bias_gelu"),
    Right("restores_a_flag", "bias_gelu"),
    Right("own_operator", "bias_gelu", quick=True),
    Right("backward_in_torch", "bias_gelu"),
    Right("outputs_apart", "scaled_twice"),
    Right("batch_statistics", "batch_norm_as_built", quick=True, limits=("correctness.value", "correctness.mode")),
    Right("batch_norm_in_both_modes", "batch_norm_as_built"),
    Right("grid_of_tiles", "squared_relu_large", large=True),
    Right("turns_until_done", "squared_relu_large", large=True),
    Right("second_stage_reads_all", "largest_of_all", large=True),
    Right("rows_along_axis_zero", "silu_many_rows", large=True),
    Right("scratch_behind_barrier", "mirrored_rows"),
    Right("reset_between_trials", "weighted_sum"),
    Right("restored_between_trials", "clamp_scale"),
    Right("weights_in_any_format", "conv2x2"),
)

_VALUE = ("correctness.value",)
_UNWRITTEN = ("correctness.not_finite", "coverage.unwritten")
_MEMORY = ("sandbox.memory",)
_CRASH = ("sandbox.crash",)

WRONG: tuple[Wrong, ...] = (
    # --- values and ranges
    Wrong("reads_some_channels", "min_channels", ("correctness.value", "coverage.unread"), quick=True),
    Wrong("mask_off_by_one", "bias_gelu", _UNWRITTEN, quick=True),
    Wrong("zero_as_identity_of_minimum", "min_channels", _VALUE),
    Wrong("swapped_strides", "transpose_scale", _VALUE),
    Wrong("dropped_last_tile", "moments", _VALUE),
    Wrong("remainder_by_zero", "bias_gelu", (*_UNWRITTEN, "coverage.outside"), quick=True),
    Wrong("missing_accumulate", "linear_relu", _VALUE),
    Wrong("one_channel_block", "conv1x1", _VALUE),
    Wrong("constant_output", "channel_mean", _VALUE),
    Wrong("wrong_constant", "bias_gelu", _VALUE),
    Wrong("tanh_gelu", "bias_gelu", _VALUE, quick=True),
    Wrong("half_operands", "linear_relu", _VALUE),
    Wrong("reduced_products", "linear_relu", _VALUE),
    Wrong("softplus_overflow", "softplus_scale", ("correctness.not_finite",), strict=True),
    Wrong("clamp_swallows_nan", "clamp_scale", ("correctness.not_finite",), strict=True),
    Wrong("epsilon_dropped", "layer_norm", ("correctness.not_finite", "correctness.value")),
    Wrong("softmax_without_maximum", "softmax_rows", ("correctness.not_finite",), strict=True),
    Wrong("running_maximum_without_rescale", "attention", _VALUE),
    Wrong("one_pass_variance", "moments", _VALUE, strict=True),
    Wrong("reduced_over_wrong_axis", "channel_mean", _VALUE),
    Wrong("exact_for_one_shape", "layer_norm", _UNWRITTEN, strict=True),
    Wrong("wrong_dtype", "half_silu", ("correctness.shape",), quick=True),
    Wrong("wrong_shape", "channel_mean", ("correctness.shape",)),
    Wrong("wrong_strides", "transpose_scale", ("correctness.stride", "correctness.shape")),
    Wrong("raises_on_odd_sizes", "bias_gelu", ("correctness.raises",), strict=True),
    Wrong("ignores_input_strides", "bias_gelu", _VALUE),
    Wrong("random_noise", "bias_gelu", ("correctness.value", "honesty.repeat")),
    Wrong("wide_tile_too_few_programs", "bias_gelu", _UNWRITTEN),
    Wrong("one_bad_configuration", "bias_gelu", _UNWRITTEN),
    # --- the language and its libraries in the interpreter: wrong ones
    Wrong("hardware_tanh", "tanh_gelu", _VALUE),
    Wrong("exponential_of_base_two", "tanh_gelu", _VALUE),
    Wrong("unknown_instruction", "tanh_gelu", ("correctness.not_interpretable",), quick=True),
    Wrong("words_that_mask_too_much", "tanh_gelu", _VALUE),
    Wrong("bits_of_bfloat16", "leaky_bf16", ("correctness.value", "correctness.not_finite")),
    # --- types, and arguments that are no tensors
    Wrong("two_percent_in_short_type", "rms_norm_short", _VALUE),
    Wrong("other_epsilon_in_short_type", "rms_norm_short", _VALUE),
    Wrong("last_of_equal", "arg_max", _VALUE, quick=True),
    Wrong("second_output_off", "two_types", _VALUE),
    Wrong("scores_beside_fill", "masked_scores", _VALUE),
    Wrong("number_of_the_example", "scaled_by_argument", _VALUE, quick=True),
    Wrong("passes_over_a_flag", "scaled_by_argument", _VALUE),
    Wrong("option_of_the_example", "sloped", _VALUE, strict=True),
    Wrong("positions_cut_to_a_byte", "picked_rows", _VALUE),
    Wrong("in_place_to_other_values", "changed_in_place", ("honesty.inputs",)),
    # --- at the task's own size
    Wrong("capped_grid", "squared_relu_large", ("coverage.unwritten",), quick=True),
    Wrong("eight_turns", "squared_relu_large", ("coverage.unwritten",)),
    Wrong("second_stage_reads_some", "largest_of_all", ("coverage.unread",)),
    Wrong("rows_along_axis_one", "silu_many_rows", ("contract.grid",)),
    # --- of the launch
    Wrong("trials_add_up", "weighted_sum", ("correctness.autotune",)),
    Wrong("trials_change_in_place", "clamp_scale", ("correctness.autotune",)),
    Wrong("scratch_without_barrier", "mirrored_rows", ("coverage.barrier",), quick=True),
    Wrong("packed_weights_assumed", "conv2x2", ("correctness.value",)),
    Wrong("descriptors_without_allocator", "linear_relu", ("compile.scratch",), target="h100-sxm"),
    # --- memory
    Wrong("returns_unwritten_memory", "clamp_scale", _UNWRITTEN),
    Wrong("reads_past_the_end", "bias_gelu", ("coverage.outside",)),
    Wrong("writes_past_the_end", "bias_gelu", ("coverage.outside", "coverage.twice")),
    Wrong("racing_sum", "weighted_sum", ("coverage.twice", "coverage.race")),
    Wrong("racing_stores", "min_channels", ("coverage.twice", "coverage.race")),
    Wrong("drops_unwritten_memory", "bias_gelu", ("honesty.unwritten", "coverage.unwritten")),
    Wrong("adds_to_unwritten_memory", "weighted_sum", _UNWRITTEN),
    Wrong("modifies_its_input", "bias_gelu", ("honesty.inputs",)),
    Wrong("modifies_a_parameter", "bias_gelu", ("honesty.parameters",)),
    # --- state between calls
    Wrong("returns_earlier_output", "bias_gelu", ("correctness.value", "honesty.cache"), quick=True),
    Wrong("cache_keyed_on_address", "softmax_rows", ("honesty.cache", "correctness.value")),
    Wrong("cache_keyed_on_shape", "residual_mish", ("correctness.value", "honesty.cache")),
    Wrong("stale_weights", "linear_relu", ("honesty.parameters", "honesty.cache", "correctness.value"), quick=True),
    Wrong("reuses_its_output", "clamp_scale", ("honesty.outputs",)),
    Wrong("second_call_differs", "weighted_sum", ("honesty.repeat", "correctness.value")),
    Wrong("cache_across_instances", "bias_gelu", ("honesty.cache", "correctness.value")),
    Wrong("lazy_after_many_calls", "bias_gelu", ("honesty.cache",), quick=True),
    Wrong("lazy_every_hundredth_call", "bias_gelu", ("honesty.cache",)),
    Wrong("cache_keyed_on_samples", "bias_gelu", ("honesty.cache",)),
    Wrong("cache_keyed_on_version", "bias_gelu", ("honesty.cache",)),
    Wrong("outputs_share_memory", "scaled_twice", ("honesty.outputs",)),
    Wrong("returns_its_input", "scaled_twice", ("honesty.outputs",)),
    Wrong("accumulates_between_calls", "weighted_sum", ("honesty.repeat", "correctness.value")),
    # --- cheats
    Wrong("decoy_kernel", "linear_relu", ("honesty.decoy",)),
    Wrong("decoy_beside_library", "conv1x1", ("honesty.decoy", "correctness.not_finite")),
    Wrong("decoy_among_kernels", "linear_relu", ("honesty.decoy",)),
    Wrong("library_result_copied", "bias_gelu", ("honesty.passed",), quick=True),
    Wrong("first_row_by_kernel", "bias_gelu", ("honesty.passed",)),
    Wrong("looks_at_module_name", "bias_gelu", ("honesty.watches",)),
    Wrong("looks_at_call_stack", "bias_gelu", ("honesty.watches",)),
    Wrong("sets_tf32", "bias_gelu", ("honesty.world",)),
    Wrong("sets_default_type", "bias_gelu", ("honesty.world",)),
    Wrong("overrides_operator", "bias_gelu", ("honesty.world",)),
    Wrong("other_parameter_names", "bias_gelu", ("correctness.parameters",)),
    Wrong("running_statistics_as_built", "batch_norm_as_built", ("correctness.value",)),
    Wrong("gradient_of_zeros", "bias_gelu", ("correctness.gradient",)),
    Wrong("lazy_output", "bias_gelu", ("honesty.type", "record.run")),
    Wrong("falls_back_on_failure", "bias_gelu", ("honesty.failure",)),
    Wrong("passes_over_failure", "bias_gelu", ("honesty.failure",)),
    Wrong("no_kernel_launched", "bias_gelu", ("correctness.no_kernel",), quick=True),
    Wrong("swallows_launch_failure", "residual_mish", ("correctness.value", "compile.error", "contract.power_of_two")),
    Wrong("answers_for_known_seed", "transpose_scale", _VALUE),
    Wrong("missing_parameter", "bias_gelu", ("correctness.parameters",)),
    Wrong("patches_comparisons", "bias_gelu", _VALUE),
    Wrong("patches_timers", "bias_gelu", _UNWRITTEN),
    Wrong("patches_the_launcher", "bias_gelu", ("correctness.no_kernel", "honesty.patched")),
    Wrong("patches_the_language", "bias_gelu", ("honesty.patched", "correctness.value")),
    Wrong("replaces_the_reference", "bias_gelu", _VALUE),
    Wrong("forges_the_report", "bias_gelu", ("correctness.no_kernel", "honesty.decoy", "contract.imports"), quick=True),
    Wrong("host_result", "bias_gelu", ("correctness.device",), gpu=True),
    # --- hostile
    Wrong("exits_on_import", "bias_gelu", _CRASH, quick=True),
    Wrong("exits_hard", "bias_gelu", _CRASH),
    Wrong("segmentation_fault", "bias_gelu", _CRASH),
    Wrong("never_ends", "bias_gelu", ("sandbox.timeout",), slow=True),
    Wrong("forks_without_end", "bias_gelu", ("sandbox.processes",), quick=True),
    Wrong("computes_without_end", "bias_gelu", ("sandbox.timeout",), slow=True),
    Wrong("fills_the_disk", "bias_gelu", ("sandbox.files", "correctness.raises")),
    Wrong("reads_outside", "bias_gelu", ("correctness.value",)),
    Wrong("takes_all_memory", "bias_gelu", _MEMORY),
    Wrong("floods_stdout", "bias_gelu", _VALUE),
    Wrong("kills_its_parent", "bias_gelu", (*_CRASH, "correctness.raises")),
    Wrong("reads_the_environment", "bias_gelu", _VALUE, environment={"TILEWRIGHT_TEST_SECRET_TOKEN": "hunter2"}),
    Wrong("writes_outside", "bias_gelu", ("correctness.value", "sandbox.files")),
    Wrong("late_writer", "bias_gelu", ("correctness.not_finite", "honesty.threads"), quick=True),
    Wrong("side_stream", "bias_gelu", ("honesty.streams",)),
)
