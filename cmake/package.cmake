# cpack -G DEB: hone and hone-dev for Debian; cpack -G TGZ: one tarball of all.
set(CPACK_PACKAGE_NAME hone)
set(CPACK_PACKAGE_VENDOR "the hone authors")
set(CPACK_PACKAGE_CONTACT "The hone authors <hone@localhost.localdomain>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "makes language models smaller and faster")
set(CPACK_PACKAGE_DESCRIPTION
"Loads a checkpoint of a language model, rewrites its weights in fewer bits,
compares the result with the original, writes it in the formats that other
tools load, and runs it on the CPU.")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL command development)
set(CPACK_COMPONENT_COMMAND_DESCRIPTION "${CPACK_PACKAGE_DESCRIPTION}")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION
"Headers, static libraries and the CMake package of hone, for programs that
load, run and optimise language models themselves.")
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME hone)
set(CPACK_DEBIAN_COMMAND_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_COMMAND_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME hone-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "libfmt-dev, nlohmann-json3-dev, libyaml-cpp-dev, libpcre2-dev, libutf8proc-dev, libcurl4-openssl-dev, libssl-dev, pkg-config")

# What Debian wants under doc/: for each package the licence and a changelog, and manuals and
# changelogs are compressed there, without a time stamp.
set(HONE_DEBIAN ${CMAKE_BINARY_DIR}/debian)
file(WRITE ${HONE_DEBIAN}/copyright
"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hone

Files: *
Copyright: 2026 the hone authors
License: Apache-2.0
 On Debian systems, the full text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
")
file(WRITE ${HONE_DEBIAN}/changelog
"hone (${PROJECT_VERSION}) unstable; urgency=medium

  * What changed is in CHANGELOG.md of the source.

 -- ${CPACK_PACKAGE_CONTACT}  Thu, 01 Jan 2026 00:00:00 +0000
")
execute_process(COMMAND gzip -9nc ${HONE_DEBIAN}/changelog OUTPUT_FILE ${HONE_DEBIAN}/changelog.gz)
foreach(component command development)
  string(REPLACE development hone-dev name ${component})
  string(REPLACE command hone name ${name})
  install(FILES ${HONE_DEBIAN}/copyright ${HONE_DEBIAN}/changelog.gz COMPONENT ${component}
          DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${name})
endforeach()
include(CPack)
