#!/bin/sh
# Writes three disjoint texts of 19th-century prose into a directory, the same bytes every time:
#
#   train.txt        trains the default model (tools/train_default_model.sh)
#   calibration.txt  every 30th of the chapters that are not held out; neither trained on nor scored
#   heldout.txt      the last 8 chapters of Persuasion, the last 10 and the epilogue of Moby Dick
#
# The source is Jane Austen's six novels and Moby Dick, public domain, as two Debian packages carry
# them; the texts themselves are not part of this repository. Hard-wrapped lines are joined again:
# one line is one paragraph (indented lines, which are verse and letters' heads, stay lines of their
# own), paragraphs are divided by an empty line, and a chapter begins with its heading. Underscores,
# which mark italics, are dropped.
set -eu

if [ $# -ne 1 ]; then
  echo "usage: tools/extract_texts.sh DIRECTORY" >&2
  exit 2
fi
packages="r-cran-janeaustenr r-cran-tokenizers"
command -v Rscript >/dev/null || {
  echo "extract_texts: no Rscript; apt-get install --no-install-recommends $packages" >&2
  exit 1
}
mkdir -p "$1"

LC_ALL=C.UTF-8 Rscript --vanilla - "$1" <<'R'
out <- commandArgs(trailingOnly = TRUE)[1]
kHeldOutPersuasion <- 8
kHeldOutMobyDick <- 11  # ten chapters and the epilogue
kCalibrationStride <- 30

stop_with <- function(...) {
  message("extract_texts: ", ...)
  quit(status = 1)
}

# The data set `name` of an installed R package, as lines.
load_lines <- function(name, package) {
  if (!nzchar(system.file(package = package)))
    stop_with("the R package ", package, " is not installed: ",
              "apt-get install --no-install-recommends r-cran-", package)
  scope <- new.env()
  utils::data(list = name, package = package, envir = scope)
  value <- scope[[name]]
  if (is.null(value)) value <- getExportedValue(package, name)  # data that the package exports
  value <- enc2utf8(unname(as.character(value)))
  if (length(value) == 1) strsplit(value, "\r?\n")[[1]] else value
}

# One string per paragraph; blocks are divided by empty lines.
rejoin <- function(lines) {
  lines <- sub("\\s+$", "", lines)
  block <- cumsum(lines == "")
  keep <- lines != ""
  vapply(split(lines[keep], block[keep]), function(block_lines) {
    starts_line <- c(FALSE, grepl("^\\s", block_lines[-1]))
    text <- paste0(ifelse(starts_line, "\n", " "), trimws(block_lines), collapse = "")
    gsub(" {2,}", " ", gsub("_", "", substring(text, 2), fixed = TRUE))
  }, "", USE.NAMES = FALSE)
}

# The chapters of a book, one string each, without what precedes the first heading or follows `end`.
chapters <- function(lines, heading, end) {
  last <- grep(end, lines)
  if (length(last) > 0) lines <- head(lines, last[1] - 1)
  lines <- lines[!grepl("^ *VOLUME +[IVX]+ *$", lines)]
  starts <- grep(heading, lines)
  if (length(starts) < 20) stop_with("found ", length(starts), " chapters, expected at least 20")
  stops <- c(starts[-1] - 1, length(lines))
  mapply(function(from, to) paste0(rejoin(lines[from:to]), collapse = "\n\n"), starts, stops)
}

novel <- function(name) {
  chapters(load_lines(name, "janeaustenr"), "^ *(CHAPTER|Chapter) +[0-9IVXL]+ *$",
           "^ *(THE END|FINIS|Finis|A NOTE ON THE TEXT) *$")
}
persuasion <- novel("persuasion")
moby_dick <- chapters(load_lines("mobydick", "tokenizers"), "^(CHAPTER [0-9]+\\.? |Epilogue *$)",
                      "^(\\*\\*\\* ?END OF|End of Project Gutenberg)")

held_out <- c(tail(persuasion, kHeldOutPersuasion), tail(moby_dick, kHeldOutMobyDick))
rest <- c(novel("sensesensibility"), novel("prideprejudice"), novel("mansfieldpark"), novel("emma"),
          novel("northangerabbey"), head(persuasion, -kHeldOutPersuasion),
          head(moby_dick, -kHeldOutMobyDick))
is_calibration <- seq_along(rest) %% kCalibrationStride == 0

write_text <- function(name, parts) {
  connection <- file(file.path(out, name), "wb")
  writeBin(charToRaw(paste0(paste0(parts, "\n\n"), collapse = "")), connection)
  close(connection)
  cat(sprintf("%-16s %4d chapters %8d bytes\n", name, length(parts),
              file.size(file.path(out, name))))
}
write_text("train.txt", rest[!is_calibration])
write_text("calibration.txt", rest[is_calibration])
write_text("heldout.txt", held_out)
R
