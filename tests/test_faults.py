"""Every fault that fuselab promises to survive, by number, and the tests that show it.

The numbers are those of the project's table of faults and bad input. A row here names tests; each is looked for in its
file, so that a test that is renamed or removed is missed at once. What only a GPU can show is marked ``gpu`` there and
run by ``make test-gpu``.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

FAULTS = {
    1: ("strided, expanded, misaligned inputs", [
        "ops/test_operators_gpu.py::test_layouts", "ops/test_ops_interpreted.py::test_kernels_in_the_interpreter",
        "ops/interpreted/test_normalisations_interpreted.py::test_layouts",
        "ops/interpreted/test_softmax_dropout_interpreted.py::test_layouts",
        "ops/interpreted/test_activations_interpreted.py::test_layouts",
        "measure/test_correctness.py::test_strided_and_expanded_inputs_keep_their_layout",
    ]),
    2: ("zero rows, zero batch", [
        "ops/interpreted/test_faults_interpreted.py::test_no_elements",
        "ops/test_operators_gpu.py::test_against_float64",
        "ops/test_ops_interpreted.py::test_kernels_in_the_interpreter",
    ]),
    3: ("odd widths", [
        "ops/interpreted/test_normalisations_interpreted.py::test_rows_wider_than_a_block",
        "ops/interpreted/test_softmax_dropout_interpreted.py::test_rows_wider_than_a_block",
        "ops/interpreted/test_normalisations_interpreted.py::test_any_shape",
        "ops/test_operators_gpu.py::test_odd_widths_and_float32_weights",
        "ops/test_ops_interpreted.py::test_kernels_in_the_interpreter",
    ]),
    4: ("more than 2^31 elements", ["ops/test_operators_gpu.py::test_more_than_2_to_the_31_elements"]),
    5: ("NaN, Inf, overflow", [
        "ops/interpreted/test_faults_interpreted.py::test_not_a_number_where_eager_has_it",
        "ops/interpreted/test_faults_interpreted.py::test_equal_rows_and_the_largest_float16",
        "ops/interpreted/test_softmax_dropout_interpreted.py::test_not_a_number_where_eager_has_it",
        "ops/test_operators_gpu.py::test_not_a_number_where_eager_has_it",
        "measure/test_correctness.py::test_nan_and_infinity_where_eager_has_them_pass",
        "measure/test_correctness.py::test_overflow_of_eager_may_be_avoided_but_not_added",
    ]),
    6: ("dtypes and devices", [
        "ops/interpreted/test_faults_interpreted.py::test_unsupported_dtypes",
        "ops/interpreted/test_faults_interpreted.py::test_unsupported_device",
        "ops/interpreted/test_faults_interpreted.py::test_two_devices",
        "ops/test_on_cpu.py::test_refuses_what_the_kernels_refuse",
        "ops/test_operators_gpu.py::test_two_devices_are_refused",
        "ops/test_operators_gpu.py::test_another_current_device",
        "ops/test_operators_gpu.py::test_odd_widths_and_float32_weights",
    ]),
    7: ("dropout's p", [
        "ops/test_operators_gpu.py::test_softmax_dropout_against_float64",
        "ops/interpreted/test_faults_interpreted.py::test_dropping_nothing_and_everything",
        "ops/interpreted/test_faults_interpreted.py::test_values_that_are_refused",
    ]),
    8: ("autocast, checkpointing, CUDA graphs", [
        "ops/interpreted/test_faults_interpreted.py::test_aliased_inputs",
        "ops/interpreted/test_faults_interpreted.py::test_retained_graph_and_repeats_agree_to_the_bit",
        "ops/interpreted/test_faults_interpreted.py::test_second_derivative_is_refused_by_name",
        "ops/test_operators_gpu.py::test_the_backward_drops_what_its_forward_did",
        "ops/test_operators_gpu.py::test_autocast", "ops/test_operators_gpu.py::test_checkpointing_replays_the_mask",
        "ops/test_operators_gpu.py::test_cuda_graph", "ops/test_operators_gpu.py::test_opcheck",
    ]),
    9: ("graph breaks and recompilations", [
        "test_cli.py::test_strict_fails_whatever_was_warned_of_and_names_it",
        "diagnosis/test_processes.py::test_the_command_line_in_json_strict_and_without_torch",
        "capture/test_session.py::test_breaks_recompiles_and_failures_are_named_with_their_lines",
        "diagnosis/test_planted.py::test_every_planted_break_is_found_at_its_line",
        "diagnosis/test_planted.py::test_every_planted_recompile_is_found_at_its_line",
    ]),
    10: ("a user's function raises, exits, crashes, hangs", [
        "worker/test_supervise.py::test_what_a_users_function_does_becomes_the_status",
        "worker/test_supervise.py::test_a_function_that_never_returns_meets_the_deadline",
        "worker/test_supervise.py::test_a_function_that_closes_the_pipe_and_never_returns_is_ended_and_named",
        "startup/test_compile_cost_processes.py::test_a_process_that_closes_its_pipe_and_lives_on_is_ended",
        "test_cli.py::test_a_users_failing_function_fails_its_cells_and_exits_1",
        "sweep/test_sweep_kills.py::test_fault_29_a_hundred_cells_and_three_kills",
    ]),
    11: ("cache hits", [
        "capture/test_session.py::test_a_second_capture_from_warm_caches_shows_the_same",
        "capture/test_session.py::test_what_was_compiled_before_is_said_to_be",
    ]),
    12: ("an artifact that this torch does not have", [
        "capture/test_session.py::test_every_stage_is_present_or_absent_with_a_reason",
        "capture/test_capture_kernels.py::test_without_the_disassembler_sass_is_absent_and_the_rest_is_there",
    ]),
    13: ("hostile kernel names", [
        "capture/test_capture_files.py::test_a_hostile_name_becomes_a_hash",
        "capture/test_capture_files.py::test_hostile_names_stay_below_and_apart",
        "capture/test_capture_kernels.py::test_a_hostile_name_is_hashed_on_disk_and_true_in_the_card",
    ]),
    14: ("SIGKILL at any write", [
        "store/test_store_faults.py::test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged",
        "test_resume.py::test_a_killed_run_is_readable_and_resumable",
        "sweep/test_sweep_kills.py::test_fault_14_random_kills_lose_nothing",
        "sweep/test_sweep_boundaries.py::test_fault_14_a_kill_before_any_write_boundary_of_a_sweep_loses_nothing",
        "sweep/test_sweep_conduct.py::test_fault_14_a_kill_between_the_runs_of_two_models_does_not_lose_the_second",
    ]),
    15: ("disk full, read-only, faulty", [
        "store/test_store_faults.py::test_a_disk_that_refuses_an_append_keeps_earlier_cells",
        "store/test_store_faults.py::test_a_full_disk_leaves_the_old_metadata",
        "store/test_store_faults.py::test_a_read_only_directory_is_named",
        "sweep/test_sweep_conduct.py::test_fault_15_a_full_disk_stops_the_sweep_and_keeps_what_is_there",
    ]),
    16: ("sixteen at once", [
        "store/test_store_run.py::test_two_runs_with_one_random_name_are_two_runs",
        "store/test_store_run.py::test_sixteen_processes_at_once_get_sixteen_runs",
        "sweep/test_sweep_conduct.py::test_fault_16_sixteen_sweeps_at_once",
    ]),
    17: ("damaged, foreign, newer metadata", [
        "store/test_store_listing.py::test_a_damaged_run_is_named_and_the_rest_list",
        "store/test_store_migrate.py::test_every_version_reads_as_the_newest",
        "store/test_store_migrate.py::test_what_cannot_be_brought_forward_says_why",
        "sweep/test_sweep_conduct.py::test_fault_17_a_sweep_of_a_newer_version_is_named_and_the_rest_list",
    ]),
    18: ("links, foreign owners, writable roots", [
        "store/test_store_faults.py::test_a_linked_directory_is_refused",
        "store/test_store_faults.py::test_a_directory_of_somebody_else_is_refused",
        "store/test_store_faults.py::test_a_root_that_everybody_can_write_is_refused",
    ]),
    19: ("pickles in a run", ["store/test_store_run.py::test_pickles_are_never_read"]),
    20: ("wrong answers", [
        "measure/test_correctness.py::test_planted_wrong_variant_is_rejected",
        "measure/test_planted_gpu.py::test_the_list_is_rejected",
        "page/test_page_build.py::test_withheld_and_wrong_cells_show_no_speedup",
        "sweep/test_sweep_results.py::test_fault_20_what_failed_or_is_withheld_shows_no_speedup",
    ]),
    21: ("out of memory, illegal access, infinite kernels, dead drivers", [
        "test_faults_gpu.py::test_fault_21_what_a_kernel_does_fails_its_cell_and_the_device_works_within_30_s",
        "sweep/test_sweep_conduct.py::test_fault_21_a_device_that_stays_stuck_is_taken_out_and_its_unit_done_elsewhere",
        "sweep/test_sweep_seat.py::test_fault_21_a_device_that_does_not_answer_is_lost_and_one_that_does_is_not",
        "test_execution.py::test_a_variant_that_kills_the_timing_is_left_out_and_the_rest_timed_again",
        "measure/test_timing_gpu.py::test_out_of_memory_drops_one_arm",
    ]),
    22: ("throttling and busy devices", [
        "test_cli.py::test_strict_fails_whatever_was_warned_of_and_names_it",
        "measure/test_group.py::test_throttled_rounds_that_decide_are_named",
        "measure/test_group.py::test_a_busy_machine_is_named", "measure/test_clocks.py::test_reasons_and_throttling",
    ]),
    23: ("cached output, side streams, no-ops, too fast", [
        "measure/test_planted_gpu.py::test_everything_on_the_list_is_planted_with_something_right_beside_it",
        "measure/test_bad_input.py::test_what_is_faster_than_the_clock_can_see_is_named",
        "measure/test_group.py::test_faster_than_streaming_is_flagged",
    ]),
    24: ("words that mean nothing", [
        "test_cli.py::test_bad_words_exit_2_and_say_what_is_allowed",
        "sweep/test_sweep_plan.py::test_fault_24_complaints_name_line_field_and_nearest_match",
    ]),
    25: ("Ctrl-C, SIGTERM, closed pipes", [
        "test_cli.py::test_fault_25_an_interrupt_keeps_what_was_measured_and_leaves_no_process",
        "test_cli.py::test_a_closed_pipe_ends_quietly", "worker/test_supervise.py::test_workers_die_with_their_parent",
    ]),
    26: ("markup in names and sources", [
        "page/test_page_browser.py::test_fifty_injections_in_every_field_run_nothing",
        "report/test_report_runs.py::test_hostile_text_in_a_run_is_shown_and_not_obeyed",
        "sweep/test_sweep_results.py::test_fault_26_markup_is_shown_as_text_and_the_policy_lets_nothing_run",
    ]),
    27: ("huge runs, NaN in figures", [
        "report/test_report_runs.py::test_ten_thousand_kernels_are_shown_in_part",
        "report/test_report_runs.py::test_a_stage_of_megabytes_is_shown_whole_and_not_highlighted",
        "page/test_panes_browser.py::test_200_kernels_and_50_mb_open_scroll_and_are_searched",
        "page/test_panes_browser.py::test_fault_27_a_page_of_500_mb_and_10000_kernels_takes_seconds_and_little_memory",
        "page/test_panes_browser.py::test_fault_27_500_mb_and_10000_kernels_open_and_what_is_left_out_is_named",
        "store/test_store_run.py::test_a_figure_that_is_no_number_does_not_make_a_line_unreadable",
        "store/test_store_run.py::test_parts_that_are_no_numbers_do_not_cost_the_cell",
        "experiments/test_experiments.py::test_an_option_that_json_has_no_word_for_is_refused_before_a_run_keeps_it",
    ]),
    28: ("secrets", [
        "store/test_store_redaction.py::test_twenty_canaries_reach_no_file_of_a_run",
        "sweep/test_sweep_canaries.py::test_fault_28_twenty_canaries_reach_no_file_of_a_sweep",
        "sweep/test_sweep_plan.py::test_fault_28_a_secret_in_an_argument_is_refused",
    ]),
    29: ("workers, schedulers and GPUs lost; results twice or late; mixed models", [
        "sweep/test_sweep_kills.py::test_fault_29_a_hundred_cells_and_three_kills",
        "sweep/test_sweep_conduct.py::test_fault_29_a_worker_that_vanishes_is_replaced_within_the_retries",
        "sweep/test_sweep_conduct.py::test_fault_29_a_unit_that_kills_every_worker_is_given_up_and_the_others_stand",
        "sweep/test_sweep_conduct.py::test_fault_29_a_result_that_comes_twice_counts_once",
        "sweep/test_sweep_conduct.py::test_fault_29_a_late_result_of_a_unit_that_was_given_away_is_left_out",
        "sweep/test_sweep_conduct.py::test_fault_29_results_of_another_model_are_never_pooled",
        "sweep/test_sweep_conduct.py::test_fault_29_mixed_models_need_a_word_of_the_plan",
    ]),
    30: ("machines that lack something", [
        "test_faults_environment.py::test_fault_30_no_gpu",
        "test_faults_environment.py::test_fault_30_no_triton",
        "test_faults_environment.py::test_fault_30_no_compiler",
        "test_faults_environment.py::test_fault_30_an_old_driver",
        "test_faults_environment.py::test_fault_30_an_unsupported_torch",
        "test_faults_environment.py::test_fault_30_no_passwd_entry",
        "test_faults_environment.py::test_fault_30_no_network",
        "test_device.py::test_the_record_needs_neither_home_nor_a_passwd_entry",
        "test_checks.py::test_a_planted_absence_is_named_with_its_remedy",
        "test_checks.py::test_the_real_checks_on_a_machine_with_nothing",
        "test_cli.py::test_a_missing_compiler_stops_before_work_starts",
    ]),
}  # fmt: skip
"""What a row is about, and the tests that show it."""


@functools.cache
def functions(path: Path) -> frozenset[str]:
    """Names of the tests that a file defines; it is parsed, not imported, for what it needs may not be here."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("number", FAULTS, ids=lambda n: f"{n:02d} {FAULTS[n][0]}")
def test_fault(number):
    for reference in FAULTS[number][1]:
        file, _, name = reference.partition("::")
        assert (TESTS / file).is_file(), f"fault {number}: there is no {file}"
        assert name in functions(TESTS / file), f"fault {number}: {file} has no {name}"


def test_no_row_is_missing():
    assert list(FAULTS) == list(range(1, 31))


def test_every_test_that_is_named_after_a_fault_is_in_its_row():
    for path in TESTS.rglob("test_*.py"):
        for name in functions(path):
            if name.startswith("test_fault_"):
                number = int(name.split("_")[2])
                listed = [reference.partition("::")[2] for reference in FAULTS[number][1]]
                assert name in listed, f"{path.name}::{name} shows fault {number} and is not in its row"
