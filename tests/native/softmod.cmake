# Modules, launches, graphs and capture linked with the core into each test, sanitizers on.
file(GLOB softmod_sources ${CMAKE_SOURCE_DIR}/soft/gpu/module*.c ${CMAKE_SOURCE_DIR}/soft/gpu/zstd*.c ${CMAKE_SOURCE_DIR}/soft/gpu/function*.c
     ${CMAKE_SOURCE_DIR}/soft/ptxc/service.c
     ${CMAKE_SOURCE_DIR}/soft/gpu/launch*.c ${CMAKE_SOURCE_DIR}/soft/gpu/occupancy.c
     ${CMAKE_SOURCE_DIR}/soft/gpu/graph*.c ${CMAKE_SOURCE_DIR}/soft/gpu/capture.c
     ${CMAKE_SOURCE_DIR}/soft/gpu/capture_api.c ${CMAKE_SOURCE_DIR}/soft/gpu/capture_event.c)
add_library(softmod_test OBJECT ${softmod_sources})
target_link_libraries(softmod_test PUBLIC harp_options harp_sanitize)
foreach(name fuzz image graph graphmem join lanes launch scarce unpack)
  add_executable(test_softmod_${name} softmod_${name}.c $<TARGET_OBJECTS:ptx_index> $<TARGET_OBJECTS:ptxc_find>)
  target_link_libraries(test_softmod_${name} PRIVATE softmod_test soft_core_test m dl pthread)
  add_test(NAME softmod_${name} COMMAND test_softmod_${name})
  set_tests_properties(softmod_${name} PROPERTIES TIMEOUT 240
                       ENVIRONMENT "HARP_PTXC=$<TARGET_FILE:harp-ptxc>")
endforeach()
target_link_options(test_softmod_scarce PRIVATE
  -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=mmap,--wrap=pthread_create)
target_sources(test_softmod_fuzz PRIVATE softmod_fuzz_memory.c softmod_fuzz_graph.c)
