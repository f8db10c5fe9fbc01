# The software GPU's core (no modules, no graphs) linked into each test, sanitizers on.
set(soft_gpu ${CMAKE_SOURCE_DIR}/soft/gpu)
set(soft_core_sources)
foreach(name arena array array_api array_format bind copy_array copy_batch copy_old copy_shape managed managed_advice
             managed_api managed_move phys space reclaim state_object capture_weak context context_api context_query copy copy_linear device engine
             engine_shared error event handle hostfunc hostmem init log memory memset pointer profile
             queue state state_read state_slot state_hold stream stream_run thread visible)
  list(APPEND soft_core_sources ${soft_gpu}/${name}.c)
endforeach()
add_library(soft_core_test OBJECT ${soft_core_sources})
target_link_libraries(soft_core_test PUBLIC harp_options harp_sanitize)
foreach(name array engine managed memory state stream visible)
  add_executable(test_soft_${name} soft_${name}.c)
  target_link_libraries(test_soft_${name} PRIVATE soft_core_test m pthread)
  add_test(NAME soft_${name} COMMAND test_soft_${name})
  set_tests_properties(soft_${name} PROPERTIES TIMEOUT 120)
endforeach()
