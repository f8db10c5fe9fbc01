# The wire's codec and frames under ASan and UBSan: every op of the rows, and arbitrary bytes.
set(wire_sources ${CMAKE_SOURCE_DIR}/generated/wire_ops.c)
foreach(name walk put get check frame)
  list(APPEND wire_sources ${CMAKE_SOURCE_DIR}/src/wire/${name}.c)
endforeach()

add_executable(wire_codec_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_codec_test.c
                               ${CMAKE_CURRENT_SOURCE_DIR}/wire_fill.c ${wire_sources})
target_link_libraries(wire_codec_test PRIVATE harp_options harp_sanitize)
add_test(NAME wire_codec COMMAND wire_codec_test)

add_executable(wire_frame_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_frame_test.c ${wire_sources})
target_link_libraries(wire_frame_test PRIVATE harp_options harp_sanitize)
add_test(NAME wire_frame COMMAND wire_frame_test)

add_executable(wire_fuzz ${CMAKE_SOURCE_DIR}/fuzz/wire_codec.c
                         ${CMAKE_CURRENT_SOURCE_DIR}/wire_fill.c ${wire_sources})
target_include_directories(wire_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(wire_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(wire_fuzz PRIVATE harp_options harp_sanitize)
add_test(NAME wire_fuzz COMMAND wire_fuzz 1 1000000)

add_executable(wire_yield_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_yield_test.c)
target_link_libraries(wire_yield_test PRIVATE harp_options harp_sanitize)
add_test(NAME wire_yield COMMAND wire_yield_test)

# Rings: the same test under ASan and, for its threads, under TSan.
set(wire_ring_sources ${wire_sources})
foreach(name ring ring_open ring_bulk)
  list(APPEND wire_ring_sources ${CMAKE_SOURCE_DIR}/src/wire/${name}.c)
endforeach()

foreach(name ring ring_wait ring_open)
  add_executable(wire_${name}_test ${CMAKE_CURRENT_SOURCE_DIR}/wire_${name}_test.c
                 ${wire_ring_sources})
  target_link_libraries(wire_${name}_test PRIVATE harp_options harp_sanitize pthread)
  add_test(NAME wire_${name} COMMAND wire_${name}_test)
endforeach()

foreach(name ring ring_wait)
  add_executable(wire_${name}_tsan ${CMAKE_CURRENT_SOURCE_DIR}/wire_${name}_test.c
                 ${wire_ring_sources})
  # TSan does not follow fences, and gcc says so; what they order shows in waits that do not end.
  target_compile_options(wire_${name}_tsan PRIVATE -fsanitize=thread
                         $<$<C_COMPILER_ID:GNU>:-Wno-tsan>)
  target_link_options(wire_${name}_tsan PRIVATE -fsanitize=thread)
  target_link_libraries(wire_${name}_tsan PRIVATE harp_options pthread)
  add_test(NAME wire_${name}_tsan COMMAND wire_${name}_tsan)
endforeach()

add_executable(wire_ring_fuzz ${CMAKE_SOURCE_DIR}/fuzz/ring.c ${wire_ring_sources})
target_compile_definitions(wire_ring_fuzz PRIVATE HARP_FUZZ_MAIN)
target_link_libraries(wire_ring_fuzz PRIVATE harp_options harp_sanitize)
add_test(NAME wire_ring_fuzz COMMAND wire_ring_fuzz 1 100000)
