# The shim's pure parts under ASan and UBSan.
foreach(name image ledger pieces predict share slab span)
  add_executable(shim_${name}_test ${CMAKE_CURRENT_LIST_DIR}/shim_${name}_test.c
                 ${CMAKE_SOURCE_DIR}/src/shim/gate/${name}.c
                 $<$<STREQUAL:${name},slab>:${CMAKE_SOURCE_DIR}/src/shim/gate/ledger.c>
                 $<$<STREQUAL:${name},slab>:${CMAKE_SOURCE_DIR}/src/shim/gate/share.c>)
  target_link_libraries(shim_${name}_test PRIVATE harp_options harp_sanitize)
  add_test(NAME shim_${name} COMMAND shim_${name}_test)
endforeach()
add_executable(shim_profile_test ${CMAKE_CURRENT_LIST_DIR}/shim_profile_test.c
               ${CMAKE_SOURCE_DIR}/src/shim/gate/profile_table.c)
target_link_libraries(shim_profile_test PRIVATE harp_options harp_sanitize)
add_test(NAME shim_profile COMMAND shim_profile_test)
target_sources(shim_pieces_test PRIVATE ${CMAKE_SOURCE_DIR}/src/shim/gate/footprint.c)
target_sources(shim_ledger_test PRIVATE ${CMAKE_SOURCE_DIR}/src/shim/gate/share.c)
target_sources(shim_share_test PRIVATE ${CMAKE_SOURCE_DIR}/src/shim/gate/ledger.c)
