# A worker's tables under ASan and UBSan; the whole of it runs in tests/integration/test_worker*.py.
set(worker_parts ${CMAKE_SOURCE_DIR}/soft/ptxc/sha256.c)
foreach(name handles uses ranges held image store whole)
  list(APPEND worker_parts ${CMAKE_SOURCE_DIR}/src/worker/${name}.c)
endforeach()
add_library(worker_parts OBJECT ${worker_parts})
target_compile_definitions(worker_parts PUBLIC KEPT_MAX=262144 STORE_MAX=1000)
target_link_libraries(worker_parts PUBLIC harp_options harp_sanitize)
foreach(name handles memory images)
  add_executable(worker_${name}_test ${CMAKE_CURRENT_SOURCE_DIR}/worker_${name}_test.c)
  target_link_libraries(worker_${name}_test PRIVATE worker_parts pthread)
  add_test(NAME worker_${name} COMMAND worker_${name}_test)
endforeach()

add_executable(worker_link_test ${CMAKE_CURRENT_SOURCE_DIR}/worker_link_test.c
                                ${CMAKE_SOURCE_DIR}/src/worker/link.c
                                ${CMAKE_SOURCE_DIR}/src/worker/handles.c
                                ${CMAKE_SOURCE_DIR}/src/worker/uses.c)
target_link_libraries(worker_link_test PRIVATE harp_options harp_sanitize pthread)
add_test(NAME worker_link COMMAND worker_link_test)

add_executable(worker_host_test ${CMAKE_CURRENT_SOURCE_DIR}/worker_host_test.c
                                ${CMAKE_SOURCE_DIR}/src/worker/host.c
                                ${CMAKE_SOURCE_DIR}/src/worker/handles.c
                                ${CMAKE_SOURCE_DIR}/src/worker/uses.c)
target_link_libraries(worker_host_test PRIVATE harp_options harp_sanitize pthread)
add_test(NAME worker_host COMMAND worker_host_test)
set_tests_properties(worker_host PROPERTIES TIMEOUT 120)

# All of it, on the software GPU, fed with frames by a client that lies.
add_executable(worker_frames_fuzz ${CMAKE_SOURCE_DIR}/fuzz/worker_frames.c
                                  ${CMAKE_CURRENT_SOURCE_DIR}/wire_fill.c)
target_include_directories(worker_frames_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(worker_frames_fuzz PRIVATE wire_parts pthread)
add_test(NAME worker_frames_fuzz COMMAND worker_frames_fuzz $<TARGET_FILE:harp-worker>
                                         $<TARGET_FILE:harp_soft_cuda> 1 100000)
set_tests_properties(worker_frames_fuzz PROPERTIES TIMEOUT 240)
