# What is installed, and the packages made of it. Two components: the command with its man page and
# completions; and for programs of other projects the headers of include/hone, the libraries and
# hone-config.cmake, which gives the target hone::hone.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Made by the command itself, of its own tables.
set(HONE_MADE ${CMAKE_BINARY_DIR}/made)
set(HONE_MADE_FILES hone.1 hone.bash hone.zsh hone.fish)
list(TRANSFORM HONE_MADE_FILES PREPEND ${HONE_MADE}/)
add_custom_command(OUTPUT ${HONE_MADE_FILES}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${HONE_MADE}
  COMMAND hone man > ${HONE_MADE}/hone.1
  COMMAND hone completion bash > ${HONE_MADE}/hone.bash
  COMMAND hone completion zsh > ${HONE_MADE}/hone.zsh
  COMMAND hone completion fish > ${HONE_MADE}/hone.fish
  DEPENDS hone COMMENT "man page and completions")
add_custom_target(made ALL DEPENDS ${HONE_MADE_FILES})

install(TARGETS hone RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
# Compressed without a time stamp, as Debian wants it; man reads both.
install(CODE "execute_process(COMMAND gzip -9nkf ${HONE_MADE}/hone.1)" COMPONENT command)
install(FILES ${HONE_MADE}/hone.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT command)
install(FILES ${HONE_MADE}/hone.bash RENAME hone COMPONENT command
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${HONE_MADE}/hone.zsh RENAME _hone COMPONENT command
        DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(FILES ${HONE_MADE}/hone.fish COMPONENT command
        DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/hone DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        COMPONENT development)
foreach(library ${HONE_LIBRARIES})
  string(REGEX REPLACE "^hone_" "" part ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${part})
endforeach()
set_target_properties(hone_api PROPERTIES EXPORT_NAME hone)
install(TARGETS ${HONE_LIBRARIES} EXPORT hone_targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
set(HONE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/hone)
install(EXPORT hone_targets FILE hone-targets.cmake NAMESPACE hone:: DESTINATION ${HONE_CMAKE_DIR}
        COMPONENT development)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/hone-config.cmake.in
  ${CMAKE_BINARY_DIR}/hone-config.cmake INSTALL_DESTINATION ${HONE_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/hone-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/hone-config.cmake ${CMAKE_BINARY_DIR}/hone-config-version.cmake
        DESTINATION ${HONE_CMAKE_DIR} COMPONENT development)

include(cmake/package.cmake)
