# A worker's tables under ASan and UBSan; the whole of it runs in tests/integration/test_worker.py.
set(worker_parts ${CMAKE_SOURCE_DIR}/soft/ptxc/sha256.c)
foreach(name handles ranges held image store whole)
  list(APPEND worker_parts ${CMAKE_SOURCE_DIR}/src/worker/${name}.c)
endforeach()
add_executable(worker_parts_test ${CMAKE_CURRENT_SOURCE_DIR}/worker_parts_test.c ${worker_parts})
target_compile_definitions(worker_parts_test PRIVATE KEPT_MAX=262144 STORE_MAX=1000)
target_link_libraries(worker_parts_test PRIVATE harp_options harp_sanitize pthread)
add_test(NAME worker_parts COMMAND worker_parts_test)
