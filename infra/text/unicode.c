#include "infra/text/unicode.h"

#include <utf8proc.h>

#include "infra/base/assert.h"

int unicode_length(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xE0)
        return 2;
    return lead < 0xF0 ? 3 : 4;
}

uint32_t unicode_next(const char *bytes, size_t *position)
{
    const unsigned char *at = (const unsigned char *)bytes + *position;
    int length = unicode_length(at[0]);
    *position += (size_t)length;
    switch (length) {
    case 1:
        return at[0];
    case 2:
        return (uint32_t)(at[0] & 0x1F) << 6 | (at[1] & 0x3F);
    case 3:
        return (uint32_t)(at[0] & 0x0F) << 12 | (uint32_t)(at[1] & 0x3F) << 6 | (at[2] & 0x3F);
    default:
        return (uint32_t)(at[0] & 0x07) << 18 | (uint32_t)(at[1] & 0x3F) << 12 |
               (uint32_t)(at[2] & 0x3F) << 6 | (at[3] & 0x3F);
    }
}

int unicode_encode(uint32_t codepoint, char bytes[4])
{
    HONE_ASSERT(codepoint <= 0x10FFFF);
    return (int)utf8proc_encode_char((utf8proc_int32_t)codepoint, (utf8proc_uint8_t *)bytes);
}

/* Length of the well-formed character at bytes, or minus the length of the maximal ill-formed part.
 * *incomplete tells that the part ran into the end of the bytes. */
static int character_at(const unsigned char *bytes, size_t length, bool *incomplete)
{
    *incomplete = false;
    unsigned char lead = bytes[0];
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return -1;
    int need = unicode_length(lead);
    for (int i = 1; i < need; i++) {
        if ((size_t)i >= length) {
            *incomplete = true;
            return -i;
        }
        unsigned char low = 0x80, high = 0xBF;
        if (i == 1) {
            low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        }
        if (bytes[i] < low || bytes[i] > high)
            return -i;
    }
    return need;
}

void unicode_append_lossy(struct text *out, const char *bytes, size_t length)
{
    const unsigned char *data = (const unsigned char *)bytes;
    size_t start = 0, position = 0;
    while (position < length) {
        bool incomplete = false;
        int step = character_at(data + position, length - position, &incomplete);
        if (step > 0) {
            position += (size_t)step;
            continue;
        }
        text_append_bytes(out, bytes + start, position - start);
        text_append(out, "\xEF\xBF\xBD");
        position += (size_t)-step;
        start = position;
    }
    if (position > start)
        text_append_bytes(out, bytes + start, position - start);
}

size_t unicode_incomplete_tail(const char *bytes, size_t length)
{
    const unsigned char *data = (const unsigned char *)bytes;
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        if ((data[length - back] & 0xC0) == 0x80)
            continue;
        bool incomplete = false;
        int step = character_at(data + length - back, back, &incomplete);
        return incomplete && step == -(int)back ? back : 0;
    }
    return 0;
}

bool unicode_is_white_space(uint32_t codepoint)
{
    if (codepoint < 0x80)
        return codepoint == ' ' || (codepoint >= 0x09 && codepoint <= 0x0D);
    if (codepoint == 0x85)
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)codepoint);
    return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

bool unicode_is_numeric(uint32_t codepoint)
{
    if (codepoint < 0x80)
        return codepoint >= '0' && codepoint <= '9';
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)codepoint);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

/* Letters in circles and squares: alphabetic, though their category is So. */
static bool is_enclosed_letter(uint32_t codepoint)
{
    return (codepoint >= 0x24B6 && codepoint <= 0x24E9) ||
           (codepoint >= 0x1F130 && codepoint <= 0x1F149) ||
           (codepoint >= 0x1F150 && codepoint <= 0x1F169) ||
           (codepoint >= 0x1F170 && codepoint <= 0x1F189);
}

bool unicode_is_word(uint32_t codepoint)
{
    if (codepoint == 0x200C || codepoint == 0x200D || is_enclosed_letter(codepoint))
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)codepoint);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ND) ||
           category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC;
}

static bool byte_stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
           (byte >= 0xAE && byte <= 0xFF);
}

uint32_t unicode_byte_level(unsigned char byte)
{
    if (byte_stands_for_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte <= 0xA0 ? 0x121u + (byte - 0x7Fu) : 0x143u;
}

int unicode_byte_level_inverse(uint32_t codepoint)
{
    if (codepoint < 0x100)
        return byte_stands_for_itself(codepoint) ? (int)codepoint : -1;
    if (codepoint <= 0x120)
        return (int)codepoint - 0x100;
    if (codepoint <= 0x142)
        return (int)codepoint - 0x121 + 0x7F;
    return codepoint == 0x143 ? 0xAD : -1;
}
