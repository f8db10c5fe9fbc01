# SPDX-License-Identifier: Apache-2.0
"""What of the suite a GPU behind a harp-worker does not pass, and why: by reason, `area.case`."""

from __future__ import annotations

__all__ = ["WAIVED"]

_BY_REASON: dict[str, str] = {
    "NVML of a session is not there yet": """
        management.identity_is_the_same_by_both
        management.memory_in_use_follows_an_allocation
        management.the_program_itself_is_listed
        nvml.a_misaligned_store_is_xid_13
        nvml.a_trap_is_xid_13
        nvml.a_waiter_is_woken_by_another_process
        nvml.a_wild_store_is_xid_31
        nvml.an_assertion_is_xid_43
        nvml.an_event_is_for_one_waiter_and_for_every_set
        nvml.both_apis_say_the_same
        nvml.event_calls_are_checked
        nvml.locked_clocks_slow_kernels_down
        nvml.shutdown_wakes_waiters
        nvml.what_was_before_registration_is_not_told
        vmm.a_descriptor_shares_memory_with_an_unrelated_process
    """,
    "a graph may name no memory of this machine: it is used after the call": """
        array.a_capture_takes_copies_of_arrays
        array.a_graph_copies_arrays
        graph2.branches_overlap_in_device_time
        graphnodes.captured_copies_and_fills_can_be_read
        graphnodes.parts_of_an_executable_graph_change
    """,
    "a handle that has ended with its owner is another error": """
        graphnodes.kernel_nodes_have_attributes
    """,
    "a kernel that was listed and is then asked for by name has two handles": """
        module.library_kernels_run_as_functions
    """,
    "a launch of a known shape is told: that there is no memory for its frames shows later": """
        limits.launches_take_local_memory
    """,
    "addresses of graphs, mappings and pools are not known to the client yet": """
        graphmem.a_graph_has_its_memory_while_it_runs
        pool.current_and_default_pools
        pool.what_a_pointer_of_a_pool_is
        vmm.pointers_know_their_range_and_mapping
    """,
    "an option or attribute that the rows do not know has an error of the client's own": """
        graphnodes.nodes_that_are_not_there_are_refused
        library.library_options_are_checked
        module.jit_options_are_checked
    """,
    "calls that do not cross the wire are refused with a reason (native/api: remote)": """
        context.flags_are_checked_and_told
        context.uses_are_counted
        graph2.graphs_are_drawn
        launch.launches_over_devices_are_refused
        launch.the_launch_api_of_old_works
        library.every_launch_takes_a_kernel
    """,
    "handles are not shared with other processes": """
        ipc.a_killed_recorder_holds_nobody
        ipc.a_process_does_not_open_its_own
        ipc.memory_is_shared_by_its_name
        ipc.names_of_what_is_gone_open_nothing
        ipc.streams_wait_for_the_other_program
        poolshare.an_exported_pool_is_used_by_another_process
        poolshare.sharing_is_checked
        poolshare.what_is_imported_outlives_its_maker
        vmm.a_killed_importer_holds_nothing
        vmm.only_whole_descriptors_of_ours_are_taken
    """,
    "what a link says of its options after it was made is not told to the program yet": """
        link.files_are_linked
        link.functions_and_variables_are_found_in_other_inputs
        link.link_options_are_checked
        link.logs_are_cut_to_their_buffers
        link.what_nobody_defines_is_named
    """,
    "harp-worker does not read nodes back yet": """
        graph.graphs_are_read_back
        graphnodes.captured_host_functions_can_be_read
    """,
    "harp-worker's thread is still in a capture whose context has gone": """
        capture2.a_capture_ends_with_its_context
    """,
    "host functions run one after another, as a driver may do it": """
        graphmem.branches_run_beside_each_other_in_the_graphs_memory
    """,
    "managed memory is refused: its pages would cross the wire at every fault": """
        library.names_are_found_or_not
        managed.a_capture_refuses_prefetches
        managed.a_client_that_asks_is_told_what_there_is
        managed.a_first_touch_costs_what_moving_costs
        managed.a_graph_copies_and_fills_it
        managed.a_kernel_past_its_end_faults
        managed.host_and_kernels_share_it
        managed.kernels_do_not_reach_over_the_end_of_pinned_memory
        managed.kernels_reach_pinned_memory
        managed.nvml_and_the_ledger_see_what_migrated
        managed.twins_take_the_threads_own_stream
        mpool.a_destroyed_managed_pool_waits_for_its_memory
        mpool.a_device_is_charged_for_what_lies_on_it
        mpool.a_managed_pool_is_the_hosts_and_the_devices
        mpool.allocations_alone_keep_a_pool_small
        mpool.current_and_default_managed_pools
        mpool.frees_are_in_stream_order
        mpool.graphs_have_no_managed_memory
        mpool.what_a_pointer_of_a_managed_pool_is
        mpool.what_managed_pools_refuse
        mvars.a_client_cannot_free_what_a_module_owns
        mvars.a_library_has_one_for_all_contexts
        mvars.a_modules_variables_go_with_its_context
        mvars.each_module_has_its_own
        mvars.host_and_kernels_share_a_variable
        mvars.initial_values_hold_addresses_of_either_kind
        mvars.it_moves_as_managed_memory_does_and_goes_at_unload
        mvars.only_global_variables_are_managed
    """,
    "no kernel elsewhere reaches memory of this machine, and no attribute says so": """
        address.host_memory_is_a_kernels_while_it_is_registered
        address.pinned_memory_ends_where_it_ends
        graphmemnodes.captured_calls_become_nodes
        pool.creation_is_checked
        pool.host_pools_are_the_hosts_and_open_to_devices
        pool.what_a_device_says_of_pools
        streamops.a_failing_context_ends_the_wait
        streamops.bad_operations_are_refused
        streamops.batches_go_through_their_operations
        streamops.captured_operations_become_nodes
        streamops.each_comparison_waits_for_its_value
        vmm.attributes_say_what_is_true
        vmm.host_memory_is_mapped_for_both
    """,
    "reads the software GPU's ledger, log or folder, which are the worker's": """
        array.the_ledger_has_what_an_array_costs
        fatbin.files_are_read_within_their_bounds
        loading.code_and_variables_are_charged_and_given_back
    """,
}

WAIVED: dict[str, str] = {name: why for why, names in _BY_REASON.items() for name in names.split()}
