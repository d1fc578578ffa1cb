# cmake --install: the program, the recipes, the man page and shell completions made from the command tables.
include(GNUInstallDirs)

set(generated ${CMAKE_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${generated})
add_custom_command(
    OUTPUT ${generated}/hone.1 ${generated}/hone.bash ${generated}/_hone ${generated}/hone.fish
    COMMAND hone man > ${generated}/hone.1
    COMMAND hone completion bash > ${generated}/hone.bash
    COMMAND hone completion zsh > ${generated}/_hone
    COMMAND hone completion fish > ${generated}/hone.fish
    DEPENDS hone)
add_custom_target(manual ALL DEPENDS ${generated}/hone.1)

install(TARGETS hone RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hone/configs)
install(DIRECTORY examples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/hone/examples OPTIONAL)
install(FILES ${generated}/hone.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${generated}/hone.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME hone)
install(FILES ${generated}/_hone DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${generated}/hone.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
