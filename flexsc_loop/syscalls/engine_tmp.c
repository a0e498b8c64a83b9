#include "user_page.c"
