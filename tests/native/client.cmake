# The client of remote sessions under ASan and UBSan, with a peer that is a thread of the test.
set(remote ${CMAKE_SOURCE_DIR}/src/shim/remote)
add_executable(client_state_test ${CMAKE_CURRENT_LIST_DIR}/client_state_test.c
                                 ${remote}/state.c ${remote}/lane.c ${remote}/ranges.c)
target_link_libraries(client_state_test PRIVATE harp_options harp_sanitize pthread)
add_test(NAME client_state COMMAND client_state_test)

add_executable(client_stock_test ${CMAKE_CURRENT_LIST_DIR}/client_stock_test.c ${remote}/stock.c)
target_link_libraries(client_stock_test PRIVATE harp_options harp_sanitize)
add_test(NAME client_stock COMMAND client_stock_test)

add_executable(client_layout_test ${CMAKE_CURRENT_LIST_DIR}/client_layout_test.c
                                  ${remote}/layout.c)
target_link_libraries(client_layout_test PRIVATE harp_options harp_sanitize)
add_test(NAME client_layout COMMAND client_layout_test)

set(cubin ${CMAKE_CURRENT_LIST_DIR}/made_cubin.c ${remote}/cubin.c ${remote}/layout.c)
add_executable(client_cubin_test ${CMAKE_CURRENT_LIST_DIR}/client_cubin_test.c ${cubin})
target_link_libraries(client_cubin_test PRIVATE harp_options harp_sanitize)
add_test(NAME client_cubin COMMAND client_cubin_test)

add_executable(client_layout_fuzz ${CMAKE_SOURCE_DIR}/fuzz/client_layout.c ${cubin})
target_include_directories(client_layout_fuzz PRIVATE ${CMAKE_CURRENT_LIST_DIR})
target_compile_definitions(client_layout_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(client_layout_fuzz PRIVATE harp_options harp_sanitize)
add_test(NAME client_layout_fuzz COMMAND client_layout_fuzz 1 300000)

# Of libharp: the exported jumps, first use, and the remote backend; no gate.
set(entry ${CMAKE_SOURCE_DIR}/src/shim/entry)
add_library(client_parts OBJECT ${CMAKE_CURRENT_LIST_DIR}/client_peer.c
                                ${CMAKE_CURRENT_LIST_DIR}/made_cubin.c
                                ${entry}/env.c ${entry}/loader.c ${entry}/entry.c ${entry}/symbols.c
                                ${CMAKE_SOURCE_DIR}/src/shim/gate/thread.c
                                ${CMAKE_SOURCE_DIR}/generated/shim_table.c
                                ${CMAKE_SOURCE_DIR}/generated/shim_stubs.S ${HARP_SHIM_REMOTE})
target_link_libraries(client_parts PRIVATE harp_options harp_sanitize)
foreach(name client client_again client_ahead client_arena client_copy client_ends client_guard client_lease client_rounds)
  add_executable(${name}_test ${CMAKE_CURRENT_LIST_DIR}/${name}_test.c
                              $<TARGET_OBJECTS:client_parts>)
  target_link_libraries(${name}_test PRIVATE harp_options harp_sanitize pthread dl)
  add_test(NAME ${name} COMMAND ${name}_test)
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endforeach()

# Sessions that end and begin under threads which call, and memory that these share: under TSan, too.
get_target_property(client_sources client_parts SOURCES)
add_library(client_parts_tsan OBJECT ${client_sources})
target_compile_definitions(client_parts_tsan PUBLIC BASE=0x4000000000ull)
target_link_libraries(client_parts_tsan PUBLIC harp_options harp_sanitize_threads)
foreach(name client_again client_lease)
  add_executable(${name}_tsan ${CMAKE_CURRENT_LIST_DIR}/${name}_test.c)
  target_link_libraries(${name}_tsan PRIVATE client_parts_tsan pthread dl)
  set(scenario_client_lease no_two_threads_have_the_same)
  add_test(NAME ${name}_tsan COMMAND ${name}_tsan ${scenario_${name}})
  set_tests_properties(${name}_tsan PROPERTIES TIMEOUT 120)
endforeach()
