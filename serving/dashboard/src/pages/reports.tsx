/** The reports of days: which are kept, and a way to have them as a file. */
import { useState } from "preact/hooks";
import { save, Problem } from "../api";
import { language, t } from "../language";
import type { KeptReport } from "../types";
import { words } from "../ui/panel";
import { Ago } from "../ui/parts";

const FORMS = ["html", "pdf"] as const;
const DAYS = 7;

export function ReportList({ of }: { of: readonly KeptReport[] }) {
  const [busy, setBusy] = useState<string | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const today = new Date().toISOString().slice(0, 10);
  const kept = of.filter((one) => one.date !== today).slice(0, DAYS);

  const have = async (day: string, form: string) => {
    const name = `${day}.${form}`;
    setBusy(name);
    setProblem(null);
    try {
      await save(`/reports/${name}?lang=${language.get()}`, `lakehouse-${day}.${language.get()}.${form}`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setProblem(error);
    } finally {
      setBusy(null);
    }
  };

  return (
    <>
      {problem && (
        <p class="notice" role="alert">
          {words(problem).title} {problem.detail}
        </p>
      )}
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("reports.day")}</th>
            <th scope="col">{t("reports.made")}</th>
            <th scope="col" class="n">
              {t("reports.file")}
            </th>
          </tr>
        </thead>
        <tbody>
          {[{ date: today, made_at: null }, ...kept].map(({ date, made_at }) => (
            <tr key={date}>
              <th scope="row">{date === today ? t("reports.today") : date}</th>
              <td>{made_at === null ? t("reports.now") : <Ago at={made_at} />}</td>
              <td class="n">
                {FORMS.map((form) => (
                  <button
                    key={form}
                    type="button"
                    class="button small"
                    disabled={busy !== null}
                    aria-label={t("reports.save", { day: date, form: form.toUpperCase() })}
                    onClick={() => void have(date, form)}
                  >
                    {busy === `${date}.${form}` ? t("reports.making") : form.toUpperCase()}
                  </button>
                ))}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}
