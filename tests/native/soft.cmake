# The software GPU's core (no modules, no graphs) linked into each test, sanitizers on.
set(soft_gpu ${CMAKE_SOURCE_DIR}/soft/gpu)
set(soft_core_sources)
foreach(name arena bind phys space reclaim state_object capture_weak context context_api context_query copy copy_linear device engine
             engine_shared error event handle hostfunc hostmem init log memory memset pointer profile
             pool pool_api pool_attr pool_chunk pool_graph pool_graph_block pool_graph_launch pool_order
             pool_set pool_share pool_sync queue state state_read state_slot state_hold stream stream_run thread visible)
  list(APPEND soft_core_sources ${soft_gpu}/${name}.c)
endforeach()
add_library(soft_core_test OBJECT ${soft_core_sources})
target_link_libraries(soft_core_test PUBLIC harp_options harp_sanitize)
foreach(name engine memory pool poolends state stream visible)
  add_executable(test_soft_${name} soft_${name}.c)
  target_link_libraries(test_soft_${name} PRIVATE soft_core_test m pthread)
  add_test(NAME soft_${name} COMMAND test_soft_${name})
  set_tests_properties(soft_${name} PROPERTIES TIMEOUT 120)
endforeach()
