# How all C here is compiled, for every project that has some: native/ and native/src/link.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# One rpath for all: none. Every binary finds its siblings by its own path.
set(CMAKE_SKIP_RPATH ON)

option(HARP_DEV "Developer build: warnings are errors, ASan and UBSan on executables and tests" OFF)

get_filename_component(HARP_NATIVE ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
add_library(harp_options INTERFACE)
target_include_directories(harp_options INTERFACE ${HARP_NATIVE}/include ${HARP_NATIVE})
target_compile_definitions(harp_options INTERFACE _GNU_SOURCE)
target_compile_options(harp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wconversion
                                              -Wshadow -Wvla -Wno-unused-parameter>)
# zig cc (the release compiler) knows no --exclude-libs; version scripts say the same.
target_link_options(harp_options INTERFACE -Wl,-z,defs -Wl,-z,now)
if(HARP_DEV)
  target_compile_options(harp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-Werror>)
  add_library(harp_sanitize INTERFACE)
  # -O1 and line numbers alone: such code takes 40 % less to compile, and most of a build is that.
  # What gcc warns of at -O2 is seen in the libraries, which are built without sanitizers.
  target_compile_options(harp_sanitize INTERFACE -O1 -g1 -fsanitize=address,undefined
                                                 -fno-omit-frame-pointer)
  target_link_options(harp_sanitize INTERFACE -fsanitize=address,undefined)
  # TSan does not follow fences, and gcc says so; what they order shows in waits that do not end.
  add_library(harp_sanitize_threads INTERFACE)
  target_compile_options(harp_sanitize_threads INTERFACE -O1 -g1 -fsanitize=thread
                                                         $<$<C_COMPILER_ID:GNU>:-Wno-tsan>)
  target_link_options(harp_sanitize_threads INTERFACE -fsanitize=thread)
else()
  target_compile_options(harp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-fno-sanitize=all>)
  add_library(harp_sanitize INTERFACE)
endif()
