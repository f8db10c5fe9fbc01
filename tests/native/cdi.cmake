# The JSON reader of harp-cdi-hook, under the sanitizers.
add_executable(cdi_json_fuzz cdi_json_fuzz.c ${PROJECT_SOURCE_DIR}/src/cdi/json.c)
target_link_libraries(cdi_json_fuzz PRIVATE harp_options harp_sanitize)
add_test(NAME cdi_json_fuzz COMMAND cdi_json_fuzz)
