# The link's decoders and connections under ASan and UBSan, in one process, without a network.
include(${CMAKE_SOURCE_DIR}/src/link/sources.cmake)

add_library(link_core_parts OBJECT ${harp_link_core})
target_link_libraries(link_core_parts PUBLIC harp_options harp_sanitize)
add_executable(link_grpc_test ${CMAKE_CURRENT_SOURCE_DIR}/link_grpc_test.c)
target_link_libraries(link_grpc_test PRIVATE link_core_parts)
add_test(NAME link_grpc COMMAND link_grpc_test)

add_executable(link_grpc_fuzz ${CMAKE_SOURCE_DIR}/fuzz/link_grpc.c)
target_compile_definitions(link_grpc_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(link_grpc_fuzz PRIVATE link_core_parts)
add_test(NAME link_grpc_fuzz COMMAND link_grpc_fuzz 1 300000)

add_executable(link_replay_test ${CMAKE_CURRENT_SOURCE_DIR}/link_replay_test.c
  ${HARP_LINK_DIR}/replay.c ${HARP_LINK_DIR}/resume.c)
target_link_libraries(link_replay_test PRIVATE harp_options harp_sanitize)
add_test(NAME link_replay COMMAND link_replay_test)

add_executable(link_spread_test ${CMAKE_CURRENT_SOURCE_DIR}/link_spread_test.c
  ${HARP_LINK_DIR}/spread.c)
target_link_libraries(link_spread_test PRIVATE harp_options harp_sanitize)
add_test(NAME link_spread COMMAND link_spread_test)

add_executable(link_traffic_test ${CMAKE_CURRENT_SOURCE_DIR}/link_traffic_test.c
  ${HARP_LINK_DIR}/traffic.c)
target_link_libraries(link_traffic_test PRIVATE harp_options harp_sanitize)
add_test(NAME link_traffic COMMAND link_traffic_test)

if(HARP_LINK_WITHOUT)
  add_test(NAME link_h2 COMMAND ${CMAKE_COMMAND} -E echo "skipped, missing:${HARP_LINK_WITHOUT}")
  set_tests_properties(link_h2 PROPERTIES SKIP_REGULAR_EXPRESSION "skipped, missing")
  return()
endif()

list(REMOVE_ITEM harp_link_h2 ${harp_link_core})
add_library(link_h2_parts OBJECT ${harp_link_h2})
target_link_libraries(link_h2_parts PUBLIC harp_options harp_sanitize harp_link_needs)
add_executable(link_h2_test ${CMAKE_CURRENT_SOURCE_DIR}/link_h2_test.c)
target_link_libraries(link_h2_test PRIVATE link_h2_parts link_core_parts)
add_test(NAME link_h2 COMMAND link_h2_test)

add_executable(link_h2_fuzz ${CMAKE_SOURCE_DIR}/fuzz/link_h2.c)
target_compile_definitions(link_h2_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(link_h2_fuzz PRIVATE link_h2_parts link_core_parts)
add_test(NAME link_h2_fuzz COMMAND link_h2_fuzz 1 100000)

add_executable(link_tls_out_test ${CMAKE_CURRENT_SOURCE_DIR}/link_tls_out_test.c
  ${HARP_LINK_DIR}/tls_out.c)
target_link_libraries(link_tls_out_test PRIVATE harp_options harp_sanitize harp_link_needs)
add_test(NAME link_tls_out COMMAND link_tls_out_test)
