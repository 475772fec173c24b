# A program of several files, a library, and a makefile that knows what depends on what.
mkdir -p /usr/src/words && cd /usr/src/words
cat >table.h <<'END'
#include <stddef.h>
struct entry { char *word; size_t count; struct entry *next; };
void table_add(const char *word);
size_t table_each(void (*see)(const struct entry *));
END
cat >table.c <<'END'
#include "table.h"
#include <stdlib.h>
#include <string.h>
static struct entry *buckets[1024];
void table_add(const char *word) {
    unsigned hash = 5381;
    for (const char *at = word; *at; at++) hash = hash * 33 + (unsigned char)*at;
    struct entry **place = &buckets[hash % 1024];
    for (; *place; place = &(*place)->next)
        if (!strcmp((*place)->word, word)) { (*place)->count++; return; }
    *place = calloc(1, sizeof **place);
    (*place)->word = strdup(word);
    (*place)->count = 1;
}
size_t table_each(void (*see)(const struct entry *)) {
    size_t seen = 0;
    for (size_t i = 0; i < 1024; i++)
        for (struct entry *e = buckets[i]; e; e = e->next, seen++) see(e);
    return seen;
}
END
cat >main.c <<'END'
#include "table.h"
#include <stdio.h>
static size_t total;
static void see(const struct entry *e) { total += e->count; }
int main(void) {
    char word[256];
    while (scanf("%255s", word) == 1) table_add(word);
    size_t different = table_each(see);
    printf("%zu words, %zu different\n", total, different);
    return 0;
}
END
cat >Makefile <<'END'
CFLAGS = -O2 -Wall -Wextra -fPIC -g
words: main.o libtable.so
	$(CC) -o $@ main.o -L. -ltable -Wl,-rpath,'$$ORIGIN'
libtable.so: table.o
	$(CC) -shared -o $@ $^
libtable.a: table.o
	$(AR) rcs $@ $^
static: main.o libtable.a
	$(CC) -static -o $@ $^
main.o table.o: table.h
END

# What runs in parallel says so in any order.
make -j2 words static libtable.a | sort
./words </usr/share/common-licenses/GPL-3
./static <table.c
make words static
touch table.h; make -j2 words | sort
sed -i s/different/distinct/g main.c; make words; ./words <main.c
sed -i s/33/31/ table.c; make words; ./words <main.c
objdump -d words | sha256sum; ldd ./words | grep -o libtable.so

mkdir many
for i in $(seq 40); do
    printf '#include <stdio.h>\n#include <stdlib.h>\nint f%d(int x) { return x * %d + rand() %% 2; }\n' $i $i >many/f$i.c
done
make -s -j4 CFLAGS='-O2 -I.' $(printf 'many/f%s.o ' $(seq 40))
ar rcsD many/all.a many/*.o
nm many/all.a | grep -c ' T f'
rm many/*1.o; make -n $(printf 'many/f%s.o ' $(seq 40)) | wc -l

echo 'int main(){return 7;}' | gcc -x c -o seven -; ./seven || echo $?
strip static; ./static <table.c; cp words /usr/local/bin/; cp libtable.so /usr/local/bin/
cd /; /usr/local/bin/words </etc/passwd
