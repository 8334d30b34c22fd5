import { describe, expect, it } from "vitest";

import { parseLines } from "../src/api";
import { claims, cleaned } from "../src/session";

const base64url = (text: string) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(text))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
const part = (value: unknown) => base64url(JSON.stringify(value));

describe("a token", () => {
  it("is taken as it was pasted, with what came along", () => {
    for (const pasted of ["a.b.c", "  a.b.c\n", "Bearer a.b.c", '"a.b.c"', "a.b\n.c"]) expect(cleaned(pasted)).toBe("a.b.c");
    for (const pasted of ["", "a.b", "a.b.c.d", "lakehouse token", "a.b.ü"]) expect(cleaned(pasted)).toBeNull();
  });

  it("says whom it names, and what it may do", () => {
    const token = `${part({})}.${part({ sub: "김 🦆", scope: "read:logs read:users", exp: 10, user_id: "u1" })}.x`;
    expect(claims(token)).toEqual({ sub: "김 🦆", scopes: ["read:logs", "read:users"], expires: 10_000, userId: "u1" });
  });

  it("that is none says nothing, and breaks nothing", () => {
    for (const token of ["", "a.b.c", "..", `x.${base64url("[")}.y`]) expect(claims(token)).toBeNull();
    expect(claims(`x.${part({ exp: "soon", user_id: 7 })}.y`)).toEqual({ sub: "", scopes: [], userId: null, expires: null });
  });
});

describe("rows", () => {
  it("are one a line, however the last one ends", () => {
    expect(parseLines('{"a":1}\n{"a":"호수\\n"}\n')).toEqual([{ a: 1 }, { a: "호수\n" }]);
    expect(parseLines("")).toEqual([]);
  });
});
