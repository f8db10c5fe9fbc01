# The software GPU's core (no modules, no graphs) linked into each test, sanitizers on.
set(soft_gpu ${CMAKE_SOURCE_DIR}/soft/gpu)
file(GLOB soft_core_sources CONFIGURE_DEPENDS ${soft_gpu}/*.c)
list(FILTER soft_core_sources EXCLUDE REGEX "/(module|function|launch|occupancy|graph|capture|zstd|getproc|door|truth)[^/]*$|_main\\.c$")
list(APPEND soft_core_sources ${soft_gpu}/capture_weak.c)
add_library(soft_core_test OBJECT ${soft_core_sources})
target_link_libraries(soft_core_test PUBLIC harp_options harp_sanitize)
foreach(name array array_copy board copy engine ipc keep knobs managed managed_advice managed_move memop memory peer
             pool poolends poolmanaged share share_rows state stream stream_race visible vmm)
  add_executable(test_soft_${name} soft_${name}.c)
  target_link_libraries(test_soft_${name} PRIVATE soft_core_test m pthread)
  add_test(NAME soft_${name} COMMAND test_soft_${name})
  set_tests_properties(soft_${name} PROPERTIES TIMEOUT 120)
endforeach()

# NVML, over the same core
file(GLOB soft_nvml_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/soft/nvml/*.c)
list(FILTER soft_nvml_sources EXCLUDE REGEX "/door\\.c$")
add_executable(test_soft_nvml soft_nvml.c ${soft_nvml_sources}
               ${CMAKE_SOURCE_DIR}/generated/soft_nvml_default.c)
target_link_libraries(test_soft_nvml PRIVATE soft_core_test m pthread)
add_test(NAME soft_nvml COMMAND test_soft_nvml)
set_tests_properties(soft_nvml PROPERTIES TIMEOUT 120)
