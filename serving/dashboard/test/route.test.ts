import { describe, expect, it } from "vitest";

import { changed, formatRoute, parseRoute } from "../src/route";

describe("an address", () => {
  it("is read and written without a loss", () => {
    for (const address of ["#/logs?q=a%26b%3D%22c%22&range=6h", "#/users?user=%F0%9F%A6%86+%2F%3F%23", "#/overview"]) {
      expect(formatRoute(parseRoute(address))).toBe(address);
    }
  });

  it("that names no page is the overview", () => {
    for (const hash of ["", "#", "#/", "#/nothing", "#/__proto__", "#<script>", "#/../logs"]) {
      expect(parseRoute(hash).page).toBe("overview");
    }
  });

  it("keeps what belongs to a page while it changes, and takes the range alone to another", () => {
    const logs = parseRoute("#/logs?range=6h&q=error&service=feed");
    expect(formatRoute(changed(logs, { service: null, level: "warn" }))).toBe("#/logs?range=6h&q=error&level=warn");
    expect(formatRoute(changed(logs, { host: "web-1" }, "hosts"))).toBe("#/hosts?range=6h&host=web-1");
  });
});
