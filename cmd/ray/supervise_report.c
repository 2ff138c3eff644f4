/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "cmd/ray/supervise_private.h"
#include "cmd/ray/who_listens.h"

#define TAIL_BYTES 1500
#define ROOM_BYTES (128u << 10) /* less than a node needs to start */
#define ROOM_FILES 16

void supervisor_end_report(struct supervisor *s, bool is_ready, const char *text)
{
    if (s->has_reported)
        return;
    s->has_reported = true;
    loop_unwatch(s->listener);
    s->listener = NULL;
    report_end(s->report, is_ready, text);
}

/* The last lines of a file, each after two blanks; nothing if there are none. */
static void add_tail(FILE *out, const char *path)
{
    char text[TAIL_BYTES + 1];
    FILE *f = fopen(path, "re");
    long size;

    if (f == NULL)
        return;
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    fseek(f, size > TAIL_BYTES ? size - TAIL_BYTES : 0, SEEK_SET);
    size_t n = fread(text, 1, TAIL_BYTES, f);
    fclose(f);
    text[n] = '\0';
    char *at = text;
    if (size > TAIL_BYTES && strchr(at, '\n') != NULL)
        at = strchr(at, '\n') + 1;
    if (*at != '\0')
        fprintf(out, "%s:\n", path);
    while (*at != '\0') {
        size_t line = strcspn(at, "\n");
        fprintf(out, "  %.*s\n", (int)line, at);
        at += line + (at[line] == '\n');
    }
}

/* A part whose log finds no room cannot say why it ended. */
static void add_full_disk(const struct supervisor *s, FILE *out)
{
    struct statvfs v;

    if (statvfs(s->session.dir, &v) == 0
        && (v.f_bavail * v.f_frsize < ROOM_BYTES || (v.f_files > 0 && v.f_favail < ROOM_FILES)))
        fprintf(out,
                "The disk of %s is full (%llu KiB, %llu files left): free some, or choose another "
                "folder by --temp-dir\n",
                s->session.temp,
                (unsigned long long)(v.f_bavail * v.f_frsize >> 10),
                (unsigned long long)v.f_favail);
}

char *supervisor_explain(const struct supervisor *s, const char *what)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return NULL;
    fprintf(out, "%s\n", what);
    add_full_disk(s, out);
    fclose(out);
    text[size - 1] = '\0';
    return text;
}

char *supervisor_describe(struct supervisor *s, enum part_id id, const char *what)
{
    char *text = NULL, path[300];
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return NULL;
    fprintf(out, "%s %s\n", part_names[id], what);
    if (id == GCS && s->gcs_port != 0 && !daemon_is_running(s->parts[GCS].daemon))
        who_listens(out, s->gcs_port);
    add_full_disk(s, out);
    snprintf(path, sizeof path, "%s/%s.out", s->session.logs, part_names[id]);
    add_tail(out, path);
    snprintf(path, sizeof path, "%s/%s.err", s->session.logs, part_names[id]);
    add_tail(out, path);
    fclose(out);
    while (size > 0 && text[size - 1] == '\n')
        text[--size] = '\0';
    return text;
}

void supervisor_say_ready(struct supervisor *s)
{
    const struct start_options *o = s->o;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return;
    fprintf(out, "Local node IP: %s\n", o->node_ip);
    fprintf(out,
            "Ray is running here: %s %s, ready in %llu ms.\n",
            o->is_head ? "the head of cluster" : "a node of cluster",
            s->file.gcs_address,
            (unsigned long long)(loop_now_ms() - s->began_ms));
    if (o->is_head) {
        fprintf(out,
                "\nTo add another node to this cluster, run there\n"
                "    ray start --address=%s\n",
                s->file.gcs_address);
        if (o->token_path[0] != '\0')
            fprintf(out,
                    "with this cluster's token, which is in %s%s. Copied by\n"
                    "    ray get-auth-token | ssh HOST 'umask 077; mkdir -p ~/.ray; "
                    "cat > ~/.ray/auth_token'\n",
                    o->token_path,
                    o->made_token ? " (new)" : "");
        else
            fputs("with the same RAY_AUTH_TOKEN in its environment.\n", out);
    }
    fputc('\n', out);
    if (s->o->config.v[CONFIG_TEMP_DIR].source == CONFIG_FLAG)
        fprintf(out,
                "For programs and commands here: export RAY_TMPDIR=%.*s\n",
                (int)(strrchr(s->session.dir, '/') - s->session.dir),
                s->session.dir);
    fprintf(out,
            "Programs here join it with RAY_ADDRESS=auto. Look at it with `ray status`, end "
            "%s with `ray stop`.\n",
            o->is_head ? "it" : "this node");
    fclose(out);
    supervisor_end_report(s, true, text);
    free(text);
}
