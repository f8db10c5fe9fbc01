# The wire's codec, frames and rings under ASan and UBSan: every op of the rows, arbitrary bytes.
set(wire_sources ${CMAKE_SOURCE_DIR}/generated/wire_ops.c)
foreach(name walk put get check frame ring ring_open ring_bulk)
  list(APPEND wire_sources ${CMAKE_SOURCE_DIR}/src/wire/${name}.c)
endforeach()
add_library(wire_parts OBJECT ${wire_sources})
target_link_libraries(wire_parts PUBLIC harp_options harp_sanitize)
add_library(wire_parts_tsan OBJECT ${wire_sources})
target_link_libraries(wire_parts_tsan PUBLIC harp_options harp_sanitize_threads)

foreach(name codec frame ring ring_wait ring_open)
  add_executable(wire_${name}_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_${name}_test.c)
  target_link_libraries(wire_${name}_test PRIVATE wire_parts pthread)
  add_test(NAME wire_${name} COMMAND wire_${name}_test)
endforeach()
target_sources(wire_codec_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/wire_fill.c)

add_executable(wire_yield_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_yield_test.c)
target_link_libraries(wire_yield_test PRIVATE harp_options harp_sanitize)
add_test(NAME wire_yield COMMAND wire_yield_test)

add_executable(wire_fuzz ${CMAKE_SOURCE_DIR}/fuzz/wire_codec.c
                         ${CMAKE_CURRENT_SOURCE_DIR}/wire_fill.c)
target_include_directories(wire_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(wire_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(wire_fuzz PRIVATE wire_parts pthread)
add_test(NAME wire_fuzz COMMAND wire_fuzz 1 1000000)

# The rings' tests again under TSan, for their threads.
foreach(name ring ring_wait)
  add_executable(wire_${name}_tsan ${CMAKE_CURRENT_SOURCE_DIR}/wire_${name}_test.c)
  target_link_libraries(wire_${name}_tsan PRIVATE wire_parts_tsan pthread)
  add_test(NAME wire_${name}_tsan COMMAND wire_${name}_tsan)
endforeach()

add_executable(wire_ring_fuzz ${CMAKE_SOURCE_DIR}/fuzz/ring.c)
target_compile_definitions(wire_ring_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(wire_ring_fuzz PRIVATE wire_parts pthread)
add_test(NAME wire_ring_fuzz COMMAND wire_ring_fuzz 1 100000)

# The file that traces are written to.
foreach(kind test tsan)
  add_executable(trace_file_${kind} ${CMAKE_CURRENT_SOURCE_DIR}/trace_file_test.c
                                    ${CMAKE_SOURCE_DIR}/src/trace/file.c)
  target_link_libraries(trace_file_${kind} PRIVATE harp_options pthread
    $<IF:$<STREQUAL:${kind},tsan>,harp_sanitize_threads,harp_sanitize>)
  add_test(NAME trace_file_${kind} COMMAND trace_file_${kind})
endforeach()
