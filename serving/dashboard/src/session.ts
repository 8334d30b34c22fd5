/** Who looks: the token, which is kept in this tab's session storage alone and sent to this origin alone. */
import { Store } from "./store";

const KEY = "lakehouse.token";

export interface Claims {
  readonly sub: string;
  readonly scopes: readonly string[];
  readonly userId: string | null;
  /** Milliseconds since 1970. */
  readonly expires: number | null;
}

export const token = new Store<string | null>(null);
/** Why the token was asked for again: what the API said. */
export const refused = new Store<string | null>(null);

export function signIn(given: string): void {
  sessionStorage.setItem(KEY, given);
  refused.set(null);
  token.set(given);
}

export function signOut(reason: string | null = null): void {
  sessionStorage.removeItem(KEY);
  refused.set(reason);
  token.set(null);
}

/** Take `#token=...` out of the address, before anything else happens; else the token that this tab had. */
export function restore(): void {
  const given = /^#token=([^&/?]+)/.exec(location.hash)?.[1];
  if (given) {
    history.replaceState(null, "", location.pathname);
    signIn(decodeURIComponent(given));
  } else if (!token.get()) {
    token.set(sessionStorage.getItem(KEY));
  }
}

/** What a token says of itself, to show it; whether that is true the API alone knows. Null: it is no JWT. */
export function claims(of: string): Claims | null {
  try {
    const bytes = Uint8Array.from(atob((of.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/")), (c) =>
      c.charCodeAt(0),
    );
    const said = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    return {
      sub: String(said["sub"] ?? ""),
      scopes: String(said["scope"] ?? "").split(" ").filter(Boolean),
      userId: typeof said["user_id"] === "string" ? said["user_id"] : null,
      expires: typeof said["exp"] === "number" ? said["exp"] * 1000 : null,
    };
  } catch {
    return null;
  }
}

/** A pasted token without what comes along with it: blanks, line ends, quotes, `Bearer`. Null: it is none. */
export function cleaned(pasted: string): string | null {
  const found = pasted.trim().replace(/^Bearer\s+/i, "").replace(/^["']|["']$/g, "").replace(/\s+/g, "");
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(found) ? found : null;
}
