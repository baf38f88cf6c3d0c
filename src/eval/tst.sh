cd /tmp/rp; S=/work/main/src
ccache g++ -std=c++20 -O1 -g -fsanitize=address,undefined -Wall -Wextra -Werror -I$S /work/main/tests/eval/report_test.cpp $S/eval/report*.cpp $S/base/{log,json,error,files}.cpp -lfmt -lgtest -lgtest_main -o t && ./t 2>&1 | grep -v "OK \|RUN\|---"
