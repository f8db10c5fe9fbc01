# Tests of the PTX index and translator, with their sources built again under the sanitizers.
set(ptxc_dir ${PROJECT_SOURCE_DIR}/soft/ptxc)
set(ptxc_sources job lex type module module_decl scan index check body body_operand emit emit_text ops
                 ops_value ops_convert ops_memory ops_control ops_call ops_eights ops_meet spin kernel rows
                 rows_plan sha256)
list(TRANSFORM ptxc_sources PREPEND ${ptxc_dir}/)
list(TRANSFORM ptxc_sources APPEND .c)
file(GLOB ptxc_texts CONFIGURE_DEPENDS ${ptxc_dir}/rt/*.h)
set_source_files_properties(${ptxc_dir}/prelude.S PROPERTIES OBJECT_DEPENDS
                            "${ptxc_texts};${ptxc_dir}/ptx_rt.h")
add_library(ptxc_parts OBJECT ${ptxc_sources} ${ptxc_dir}/prelude.S)
target_compile_options(ptxc_parts PRIVATE $<$<COMPILE_LANGUAGE:ASM>:-I${PROJECT_SOURCE_DIR}>)
target_link_libraries(ptxc_parts PUBLIC harp_options harp_sanitize)
foreach(name fuzz sha256)
  add_executable(ptxc_${name} ptxc_${name}.c)
  target_link_libraries(ptxc_${name} PRIVATE ptxc_parts)
  add_test(NAME ptxc_${name} COMMAND ptxc_${name})
endforeach()
target_sources(ptxc_fuzz PRIVATE ptxc_fuzz_text.c)
# Twice 50000 texts, beside each other.
add_test(NAME ptxc_fuzz_again COMMAND ptxc_fuzz)
set_tests_properties(ptxc_fuzz_again PROPERTIES ENVIRONMENT HARP_TEST_SEED=20261127)
add_executable(ptxc_service_fuzz ptxc_service_fuzz.c ${ptxc_dir}/service.c)
add_executable(ptxc_queue ptxc_queue.c ${ptxc_dir}/serve_queue.c)
foreach(name service_fuzz queue)
  target_link_libraries(ptxc_${name} PRIVATE harp_options harp_sanitize)
  add_test(NAME ptxc_${name} COMMAND ptxc_${name})
endforeach()
