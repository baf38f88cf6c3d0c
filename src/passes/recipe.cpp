#include "passes/recipe.h"
