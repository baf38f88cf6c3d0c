// Templates to syntax trees: jinja2's grammar, with loop controls and generation blocks, without
// inheritance, includes and imports (a chat template is one file).
#pragma once

#include <string_view>

#include "text/jinja_ast.h"

namespace hone::jinja {

/// `source` must be UTF-8. Raises Fault (corrupt, or unsupported) with its line.
Body parse(std::string_view source);

}  // namespace hone::jinja
