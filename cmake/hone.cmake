# Flags shared by every target, and one helper that turns a folder into a static library.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

# Finds a pkg-config package and makes the imported target PkgConfig::<NAME>.
function(hone_package name package)
    pkg_check_modules(${name} REQUIRED IMPORTED_TARGET ${package})
endfunction()

hone_package(YAML yaml-0.1)
hone_package(JANSSON jansson)
hone_package(PCRE2 libpcre2-8)
hone_package(UTF8PROC libutf8proc)
hone_package(ZMQ libzmq)
hone_package(PROTOBUF_C libprotobuf-c)
hone_package(ROCKSDB rocksdb)
hone_package(CRYPTO libcrypto)
hone_package(XXHASH libxxhash)
hone_package(ZSTD libzstd)
find_program(PROTOC_C protoc-c REQUIRED)

# Applies hone's language level, warnings, include root and sanitizers to a target.
function(hone_target target)
    set_target_properties(${target} PROPERTIES
        C_STANDARD 17 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
    target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
    target_compile_definitions(${target} PRIVATE _GNU_SOURCE
        HONE_VERSION="${PROJECT_VERSION}")
    target_compile_options(${target} PRIVATE
        -Wall -Wextra -Wshadow -Wundef -Wvla -Wpointer-arith -Wcast-qual -Wformat=2
        -Wno-format-truncation -Wswitch-enum -Wdouble-promotion -Wstrict-prototypes -Wmissing-prototypes
        -ffp-contract=off -fno-math-errno -g -fno-omit-frame-pointer)
    if(HONE_WERROR)
        target_compile_options(${target} PRIVATE -Werror)
    endif()
    if(HONE_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${HONE_SANITIZE} -fno-sanitize-recover=all)
        target_link_options(${target} PRIVATE -fsanitize=${HONE_SANITIZE})
    endif()
endfunction()

# hone_library(NAME SOURCES a.c b.c [LINK lib ...]) -> static library hone_NAME.
function(hone_library name)
    cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
    add_library(hone_${name} STATIC ${ARG_SOURCES})
    hone_target(hone_${name})
    if(ARG_LINK)
        target_link_libraries(hone_${name} PUBLIC ${ARG_LINK})
    endif()
endfunction()

# hone_test_limits(TEST SECONDS): how long a test may take, and what exit status means skipped. Sanitizers slow
# tests down, and processes that a test starts inherit its environment and with it what they need.
function(hone_test_limits test seconds)
    if(HONE_SANITIZE)
        math(EXPR seconds "${seconds} * 6")
    endif()
    set_tests_properties(${test} PROPERTIES TIMEOUT ${seconds} SKIP_RETURN_CODE 77)
    if(HONE_SANITIZE MATCHES "thread")
        set_tests_properties(${test} PROPERTIES ENVIRONMENT
            "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/support/tsan.supp:halt_on_error=1")
    endif()
endfunction()

# hone_test(FOLDER/NAME [LINK lib ...] [ARGS ...] [TIMEOUT s]) -> tests/FOLDER/test_NAME.c as a cmocka test.
function(hone_test path)
    cmake_parse_arguments(ARG "" "TIMEOUT" "LINK;ARGS" ${ARGN})
    get_filename_component(folder ${path} DIRECTORY)
    get_filename_component(name ${path} NAME)
    string(REPLACE "/" "_" target test_${path})
    add_executable(${target} ${CMAKE_SOURCE_DIR}/tests/${folder}/test_${name}.c)
    hone_target(${target})
    target_link_libraries(${target} PRIVATE ${ARG_LINK} hone_base PkgConfig::CMOCKA)
    add_test(NAME ${path} COMMAND ${target} ${ARG_ARGS}
             WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    if(NOT ARG_TIMEOUT)
        set(ARG_TIMEOUT 300)
    endif()
    hone_test_limits(${path} ${ARG_TIMEOUT})
endfunction()
