# Toolchain file: release builds use zig cc (see zig-cc beside this file for the reason).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_C_COMPILER "${CMAKE_CURRENT_LIST_DIR}/zig-cc")
set(CMAKE_C_COMPILER_WORKS 1)
# Host binaries are built: run them, search the host.
set(CMAKE_CROSSCOMPILING FALSE)
