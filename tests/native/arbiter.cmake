# The arbiter's core under ASan and UBSan: cases in C, and arbitrary events.
set(arbiter_core_sources)
foreach(name core clients look wire memory requests host expect recall residency rotation suspend admin_ops check check_time check_swap time turns handover charge caps classes gang
        policy policy_drr policy_priority policy_fifo)
  list(APPEND arbiter_core_sources ${CMAKE_SOURCE_DIR}/src/arbiter/${name}.c)
endforeach()

add_executable(arbiter_core_test ${CMAKE_CURRENT_SOURCE_DIR}/arbiter_core_test.c ${arbiter_core_sources})
target_link_libraries(arbiter_core_test PRIVATE harp_options harp_sanitize)
add_test(NAME arbiter_core COMMAND arbiter_core_test)

add_executable(arbiter_fuzz ${CMAKE_SOURCE_DIR}/fuzz/arbiter_core.c ${arbiter_core_sources})
target_compile_definitions(arbiter_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(arbiter_fuzz PRIVATE harp_options harp_sanitize)
add_test(NAME arbiter_fuzz COMMAND arbiter_fuzz 1 5000)
