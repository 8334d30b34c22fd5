import { describe, expect, it } from "vitest";

import { CATALOGUES, fill, wanted, type Message } from "../src/language";

describe("the catalogues", () => {
  const { en, ...others } = CATALOGUES;
  const holes = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();

  it("have every message, with the same things to fill in", () => {
    for (const [name, catalogue] of Object.entries(others)) {
      expect(Object.keys(catalogue).sort(), name).toEqual(Object.keys(en).sort());
      for (const message of Object.keys(en) as Message[]) {
        expect(holes(catalogue[message]), `${name} ${message}`).toEqual(holes(en[message]));
      }
    }
  });

  it("leave no message empty, and Korean none in English", () => {
    const same = (Object.keys(en) as Message[]).filter((message) => CATALOGUES.ko[message] === en[message]);
    expect(same.filter((message) => !message.startsWith("store."))).toEqual([]);
    for (const catalogue of Object.values(CATALOGUES)) {
      for (const text of Object.values(catalogue)) expect(text.trim()).not.toBe("");
    }
  });

  it("are chosen by the first language that there is", () => {
    expect(wanted(["de-DE", "ko-KR", "en"])).toBe("ko");
    expect(wanted(["EN-us", "ko"])).toBe("en");
    expect(wanted(["kok", "fr"])).toBe("en");
    expect(wanted([])).toBe("en");
  });

  it("fill in what they are given, and nothing out of it", () => {
    expect(fill("{a} of {b}", { a: "{b}", b: 2 })).toBe("{b} of 2");
    expect(fill("{missing}", {})).toBe("{missing}");
  });
});
