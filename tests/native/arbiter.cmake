# The arbiter's core under ASan and UBSan (its objects are harp-arbiter's own): cases in C, and
# arbitrary events.
add_executable(arbiter_core_test ${CMAKE_CURRENT_SOURCE_DIR}/arbiter_core_test.c)
target_link_libraries(arbiter_core_test PRIVATE harp_arbiter_core)
add_test(NAME arbiter_core COMMAND arbiter_core_test)

add_executable(arbiter_fuzz ${CMAKE_SOURCE_DIR}/fuzz/arbiter_core.c)
target_compile_definitions(arbiter_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(arbiter_fuzz PRIVATE harp_arbiter_core)
add_test(NAME arbiter_fuzz COMMAND arbiter_fuzz 1 5000)
