/** The page asks for a token. */
import { useEffect, useRef, useState } from "preact/hooks";

import { language, t } from "../language";
import { cleaned, refused, signIn } from "../session";
import { useStore } from "../store";
import { Icon, Mark } from "../ui/icon";
import { LanguageChoice, ThemeChoice } from "../ui/settings";

const LINK = "lakehouse dashboard";
const TOKEN = "lakehouse token --scope read:metrics --scope read:logs --scope read:users";

export function SignIn() {
  const speaking = useStore(language);
  const why = useStore(refused);
  const [pasted, setPasted] = useState("");
  const [wrong, setWrong] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    document.title = `${t("signin.title")} · lakehouse`;
  }, [speaking]);
  useEffect(() => field.current?.focus(), []);
  return (
    <main class="signin">
      <form
        class="signin-card"
        onSubmit={(event) => {
          event.preventDefault();
          const found = cleaned(pasted);
          if (found) signIn(found);
          else {
            setWrong(true);
            field.current?.focus();
          }
        }}
      >
        <div class="brand-link">
          <Mark size={32} />
          <span>lakehouse</span>
        </div>
        <h1>{t("signin.title")}</h1>
        {why !== null && (
          <p class="notice" role="alert">
            <Icon name="warning" size={14} />
            <span>
              <strong>{t("signin.refused")}</strong> {why}
            </span>
          </p>
        )}
        <label for="token">{t("signin.token")}</label>
        <input
          id="token"
          ref={field}
          type="password"
          autocomplete="off"
          spellcheck={false}
          value={pasted}
          aria-invalid={wrong}
          aria-describedby="token-help"
          onInput={(event) => {
            setPasted(event.currentTarget.value);
            setWrong(false);
          }}
        />
        <p class={wrong ? "wrong" : "help"} id="token-help" role={wrong ? "alert" : undefined}>
          {wrong ? t("signin.wrong") : t("signin.kept")}
        </p>
        <button type="submit" class="button primary wide">
          {t("signin.go")}
        </button>
        <div class="signin-how">
          <p>{t("signin.link")}</p>
          <code>{LINK}</code>
          <p>{t("signin.how")}</p>
          <code>{TOKEN}</code>
        </div>
      </form>
      <div class="signin-settings">
        <ThemeChoice />
        <LanguageChoice />
      </div>
    </main>
  );
}
